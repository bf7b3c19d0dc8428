"""The backend of routes that lead to workers: queues, workers, and what they say."""
