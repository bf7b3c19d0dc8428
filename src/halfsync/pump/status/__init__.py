"""The status page, metrics, and what halfsyncctl shows."""
