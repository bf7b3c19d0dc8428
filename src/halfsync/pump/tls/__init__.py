"""TLS: contexts, handshakes, and the transport of a connection that has made one."""
