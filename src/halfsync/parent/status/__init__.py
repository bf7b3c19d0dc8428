"""What the parent tells of itself and of all others."""
