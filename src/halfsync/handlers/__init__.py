"""What a worker invokes: files, WSGI."""
