"""The access log: its formats and its writer."""
