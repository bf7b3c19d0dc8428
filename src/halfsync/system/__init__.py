"""What is asked of the operating system, in small pieces."""
