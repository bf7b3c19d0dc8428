"""Another version of the server takes over."""
