"""The phases of the parent's life, and its limits in time and number."""

from __future__ import annotations

from enum import Enum

LONGEST_WAIT = 1.0
"""Seconds between two turns at most, so that nothing that was missed is missed for long."""

SHORTEST_WAIT = 0.05
"""Seconds until the next try, when something could not be done now (no room, no descriptors)."""

TRIES_AT_FIRST = 3
"""At the first start, so many early ends without a report are taken for final."""

LAST_WORD = 2.0
"""Seconds beyond graceful_timeout that are left for cutting off and logging in good order. That takes
milliseconds; but on a machine with many times more to do than it can, half a second was not always enough."""

REAPING = 5.0
"""Seconds to wait for killed children. One that the kernel can't end must not keep us."""

MOST_REPORTS = 16
"""Of one child in one turn."""

MOST_STARTS = 4
"""Of one generation in one turn: with many workers, the first ones serve while the last are forked."""

MOST_RETIRING = 4
"""Hung workers that may still be there for each one that is wanted."""

JOIN_AGAIN = 0.2
"""Seconds until the next try, when a process had no room for the descriptors of its channels."""

STUCK = 30.0
"""Seconds for which a child may leave its orders unread when there is no more room for them."""

EXIT_WRONG = 2
"""Exit status when what was to be served can't be."""

START_AGAIN = -1
"""In place of an exit status: with `reload`, the configuration that could not be started has changed."""


class Phase(Enum):
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    EXITING = "exiting"
    OVER = "over"
