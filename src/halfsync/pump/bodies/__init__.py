"""Bodies of requests: kept aside until they are complete, or passed on while they come."""
