"""Shared memory that says what every process and thread is doing."""
