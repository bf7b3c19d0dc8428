"""`client_connections` that several machines share: how many each client has at the others.

The `limit_store` keeps for each client how many connections each machine has of it, and until when that
holds (by the store's own clock). A machine tells its number when that changes, and again every REFRESH; the
reply is how many the others have. So one that has died counts for EXPIRY at most, and one that is just let
in, before anything was heard of its client, may be one too many: nothing waits for the store.

What was heard holds for EXPIRY too. It is asked again for a client that was refused, so whoever closes a
connection elsewhere is let in here within moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

from halfsync.wire.resp import command

REFRESH = 20.0
EXPIRY = 60.0
"""Seconds."""

PREFIX = b"halfsync:connections:"

SCRIPT = b"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[3] * 1000))
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
local others = 0
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  local number, holds = string.match(found[i + 1], '^(%d+) (%d+)$')
  if number == nil or tonumber(holds) < now then
    redis.call('HDEL', KEYS[1], found[i])
  elseif found[i] ~= ARGV[1] then
    others = others + tonumber(number)
  end
end
return others
"""
"""A client's key; a machine, its number of connections, and for how many milliseconds that holds."""


class SharedConnections:
    """Times are monotonic seconds."""

    def __init__(self, machine: bytes, own: Mapping[bytes, int], tell: Callable[[], None]) -> None:
        """`own`: how many connections each client has here; it changes. `tell`: called when there is
        something to be told."""
        self._machine = machine
        self._own = own
        self._tell = tell
        self._others: dict[bytes, tuple[int, float]] = {}  # how many, and until when that holds
        self._refresh_at = 0.0
        self.changed: dict[bytes, None] = {}  # clients whose number is to be told

    def others(self, key: bytes, now: float) -> int:
        """How many connections this client has at other machines, as far as is known."""
        number, holds_until = self._others.get(key, (0, 0.0))
        return number if now < holds_until else 0

    def has_changed(self, key: bytes) -> None:
        """Its number here; or what others have is of interest."""
        self.changed[key] = None
        self._tell()

    def sweep(self, now: float) -> None:
        """Tell everything again, from time to time."""
        if now < self._refresh_at:
            return
        self._refresh_at = now + REFRESH
        self._others = {key: one for key, one in self._others.items() if now < one[1]}
        self.changed.update(dict.fromkeys(self._own))

    def forget(self) -> None:
        """The store is away. When it is back, everything is told again."""
        self._others.clear()
        self.changed.clear()
        self._refresh_at = 0.0

    def take(self, most: int) -> list[bytes]:
        """Clients whose number is told now."""
        found = list(islice(self.changed, most))
        for key in found:
            del self.changed[key]
        return found

    def command(self, script: bytes, key: bytes) -> bytes:
        """`script`: its name in the store."""
        number, expiry = b"%d" % self._own.get(key, 0), b"%d" % (EXPIRY * 1000)
        return command(b"EVALSHA", script, b"1", PREFIX + key.hex().encode(), self._machine, number, expiry)

    def heard(self, key: bytes, others: int, now: float) -> None:
        if others:
            self._others[key] = others, now + EXPIRY
        else:
            self._others.pop(key, None)
