"""The watcher process: with `reload`, it tells the parent when code changes."""
