"""`python -m halfsync`."""

import sys

# Python puts the current folder in front of its own modules here, which the command `halfsync` does not have.
# The server itself, which may be root's, must not import what lies there, such as somebody's tomllib.py. The
# processes that run applications put it there again (see processes.make_importable).
if not sys.flags.safe_path:
    del sys.path[0]

from halfsync.start import main

main()
