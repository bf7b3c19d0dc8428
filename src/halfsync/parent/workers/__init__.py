"""The worker processes: made, counted, replaced, reaped."""
