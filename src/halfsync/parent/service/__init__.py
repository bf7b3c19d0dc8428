"""What stands between the parent and who manages the service."""
