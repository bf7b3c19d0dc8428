"""A step's outcome, in three words.

A step is a function that does for one connection what can be done now; each state has one
(`Pump.drive` is the dispatcher). It never waits: it says what it waits for.
"""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    MORE = 1  # go on with the next step, at once
    WAIT = 2  # there is nothing to do until an event
    GONE = 3  # the connection is closed


MORE, WAIT, GONE = Outcome
