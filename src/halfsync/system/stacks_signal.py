"""The signal by which the parent tells a worker to say where its threads are."""

from __future__ import annotations

import signal

SHOW_STACKS = signal.SIGURG
"""The worker writes it to the error log even if C code holds the interpreter lock (see worker/stacks.py). By
default this signal is ignored."""
