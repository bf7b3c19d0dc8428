"""The configuration is read again, and takes effect."""
