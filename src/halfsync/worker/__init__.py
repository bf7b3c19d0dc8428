"""Worker processes: threads that take tasks and turn bodies into simple objects."""
