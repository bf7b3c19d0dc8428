"""The pump process: one event loop that holds every client connection."""
