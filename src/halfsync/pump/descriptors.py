"""Descriptors that close themselves with their last owner, and a reserve of them.

A descriptor that came over the seam may be wanted by a lease and by any number of responses that
are being sent from it. CPython's reference count already knows who is the last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class Descriptor:
    """Owns `fd`. Closed when the last reference goes."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    def own_pipe(self) -> None:
        """For a pipe that another process made: open it once more. O_NONBLOCK belongs to the open file
        description, which we share with whoever sent us the descriptor; this one is ours alone.
        Raises OSError if there is no room for one more."""
        try:
            own = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:  # no /proc: then what we have must do
            os.set_blocking(self.fd, False)
            return
        os.close(self.fd)
        self.fd = own


RESERVE = 8
"""Descriptors: a Join brings three, and three more are needed for a moment until those are closed."""


class Reserve:
    """Descriptors that are kept open so that there is room, when it matters, for others."""

    def __init__(self) -> None:
        self._kept: list[Descriptor] = []
        self._fill()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Within it there is room for RESERVE descriptors more than for anybody else."""
        self._kept.clear()
        try:
            yield
        finally:
            self._fill()

    def _fill(self) -> None:
        with contextlib.suppress(OSError):  # as many as there is room for now; the others the next time
            while len(self._kept) < RESERVE:
                self._kept.append(Descriptor(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)))
