"""Descriptors that close themselves with their last owner.

A descriptor that came over the seam may be wanted by a lease and by any number of replies that
are being sent from it. CPython's reference count already knows who is the last.
"""

from __future__ import annotations

import os


class Descriptor:
    """Owns `fd`. Closed when the last reference goes."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)
