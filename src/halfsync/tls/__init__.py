"""TLS as all parts know it: certificates, keys, what is known of a connection."""
