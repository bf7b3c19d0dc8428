"""`python -m halfsync`."""

from halfsync.cli import main

main()
