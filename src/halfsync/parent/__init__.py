"""The parent process: binds, forks, reaps, handles signals."""
