"""The process that gets certificates by ACME (RFC 8555)."""
