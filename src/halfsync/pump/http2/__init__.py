"""HTTP/2 on a connection."""
