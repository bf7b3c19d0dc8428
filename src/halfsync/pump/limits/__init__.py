"""Who may connect and send requests, and how many."""
