"""What the parent and its children say to each other. Messages and their encoding; no I/O.

One channel for each child, a `SOCK_SEQPACKET` pair made by the parent, which can carry descriptors
(SCM_RIGHTS):

    orders     parent -> child  Attach | Retire | LogFile       (worker)
               parent -> child  Join | Retire | Ended | Open | Drain | Configure | SwitchOver (pump)
               parent -> child  HandOver | TakeOver             (pump)
               parent -> child  Describe | Challenges | Ping    (pump)
               parent -> child  ChallengesShown | TryAgain      (acme)
               parent -> child  Spawn                           (template)
               parent -> child  ErrorLogFile                    (each of them)
    reports    child -> parent  Ready | Failed | Drained | Hung | Lost | Cut (the same pair as `orders`)
               child -> parent  Configured | Spare | Described | ChallengesShown | Pong (pump)
               child -> parent  Ready | Failed | Cut | MaxRequests      (worker)
               child -> parent  Ready | Failed | Changed        (watcher)
               child -> parent  Ready | Challenges | Changed    (acme)
"""

from __future__ import annotations

import msgspec

NO_WORKER = -1
NO_PLAN = -1


# --- orders: parent -> child -------------------------------------------------------------------


class Attach(msgspec.Struct, tag="attach"):
    """To a worker. Descriptors: its ends of `tasks` and `watch`, then the scoreboard. Sent at first
    when the worker is ready, again whenever there is a new pump."""


class Retire(msgspec.Struct, tag="retire"):
    """To the pump: give this worker no more tasks; when its last has ended, close its channels.
    The worker leaves when it sees them closed."""

    worker: int


class Ended(msgspec.Struct, tag="ended"):
    """To the pump: this worker's process is no more. Its channels need not say so: a process that
    the application forked has them open still. From how it ended the pump knows whether the requests
    that it had begun may be tried again."""

    worker: int
    status: int  # as wait(2) gave it; -1: not known


class LogFile(msgspec.Struct, tag="logfile"):
    """To a worker of the built-in pool. Descriptor: the access log, reopened."""


class ErrorLogFile(msgspec.Struct, tag="errorlogfile"):
    """To any child. Descriptor: the error log, opened again."""


class Join(msgspec.Struct, tag="join"):
    """To the pump: a worker is ready. Descriptors: the pump's ends of `tasks` and `watch`, then
    the scoreboard."""

    worker: int
    pid: int
    pool: int  # index into Plan.pools
    threads: int  # how many tasks it takes at a time
    is_loop: bool = False  # it has an event loop, and no threads
    row: int = -1  # of the server's scoreboard; -1: it has none
    first_task: int = 0  # its task rows there
    task_rows: int = 0


class Open(msgspec.Struct, tag="open"):
    """To the pump: accept connections from now on."""


class Drain(msgspec.Struct, tag="drain"):
    """To the pump: stop accepting, finish what is in flight, log it, report Drained, exit. A second one
    may shorten the time."""

    seconds: float  # what is in flight after that is cut off; 0: at once


class HandOver(msgspec.Struct, tag="handover"):
    """To the pump: another server takes the place of this one. As Drain; but nobody is refused, and
    connections that were accepted at these listeners are passed on as soon as they have no request.
    Descriptor: the channel to the other pump (see wire/upgrade.py)."""

    seconds: float
    places: list[int]  # in Plan.listeners


class TakeOver(msgspec.Struct, tag="takeover"):
    """To the pump: connections come from the pump of the server before, also before Open. Descriptor: the
    channel to that pump."""

    places: dict[int, int]  # of listeners: there -> in Plan.listeners


class Configure(msgspec.Struct, tag="configure"):
    """To the pump: get ready for another plan. Confirmed by Configured, or Cut comes back. Descriptors: a
    file with the plan (see plan/codec.py), then one with its certificates if it has any, then the listening
    sockets that are new."""

    number: int  # the plan's
    has_certificates: bool
    listeners: list[int]  # the places of those sockets in Plan.listeners


class SwitchOver(msgspec.Struct, tag="switchover"):
    """To the pump: from now on the plan of that number is in effect. If it is not the one of the last
    Configure, that one is dropped."""

    number: int


class Describe(msgspec.Struct, tag="describe"):
    """To the pump: write what it knows of this, as JSON, into a file. Descriptor: the file. Confirmed by
    Described."""

    number: int  # of the question
    what: str  # see pump/status/overview.py


class Ping(msgspec.Struct, tag="ping"):
    """To the pump, which confirms it with Pong: does its loop turn, and has it done what it was ordered
    before?"""

    number: int = 0


class Spawn(msgspec.Struct, tag="spawn"):
    """To a template: fork a worker. Descriptor: the worker's end of its `orders` channel."""

    worker: int


# --- reports: child -> parent ------------------------------------------------------------------


class Ready(msgspec.Struct, tag="ready"):
    """The child has imported what it needs and can work. `pid` is the sender's: a template's
    worker is not the parent's own fork, and this is how the parent learns of it."""

    pid: int
    concurrency: int = 0  # tasks that a worker with an event loop takes at a time; 0: it has threads


class Failed(msgspec.Struct, tag="failed"):
    """The application can't be imported. The child exits after this."""

    sentence: str  # one clear sentence that names the target
    traceback: str  # the application's; "" if its code is not to blame
    is_shortage: bool = False  # of what the machine has: that may be over soon


class Drained(msgspec.Struct, tag="drained"):
    """From the pump: nothing is in flight and all records are logged."""


class Hung(msgspec.Struct, tag="hung"):
    """From the pump: a handler of this worker passed its deadline. If it has not ended since, the pump gives
    the worker no more tasks; it is to be replaced. If it has, the worker goes on until another is there."""

    worker: int
    has_ended: bool = False


class Lost(msgspec.Struct, tag="lost"):
    """From the pump: this worker's channel ended, or what came through it was no message, so the pump
    has closed it. If the process lives it is of no use: it is to be killed. Ended follows."""

    worker: int


class Cut(msgspec.Struct, tag="cut"):
    """An order's descriptors did not all arrive, for the process had no room for them: Join (from the
    pump) or Attach (from the worker). The worker is to be joined once more."""

    worker: int  # as Join names it; -1: from a worker itself; NO_WORKER, from the pump: Configure


class Configured(msgspec.Struct, tag="configured"):
    """From the pump: it is ready to switch over to the plan of that number."""

    number: int


class Described(msgspec.Struct, tag="described"):
    """From the pump: that is written. An empty file means that its descriptor found no room."""

    number: int  # of Describe


class Pong(msgspec.Struct, tag="pong"):
    """From the pump."""

    number: int = 0  # the Ping's


class Spare(msgspec.Struct, tag="spare"):
    """From the pump, twice a second: how busy the pools are whose number of workers changes with the load."""

    pools: list[tuple[int, int, int, int]]
    """Index into Plan.pools, idle threads, requests that wait for one, threads of one worker. Where workers
    have event loops, it is tasks in place of threads: see Join."""


class Changed(msgspec.Struct, tag="changed"):
    """From the watcher: these files of the code, or of the configuration, have changed. From the process that
    gets certificates: there is a new one."""

    files: str  # in words: "app.py and 2 other files"
    is_configuration: bool = False


class MaxRequests(msgspec.Struct, tag="maxrequests"):
    """From a worker: it has served as many requests as `max_requests` says, and is to be replaced. It goes
    on until it is retired."""

    request_count: int


class Challenges(msgspec.Struct, tag="challenges"):
    """From the process that gets certificates, by the parent to the pump: what the authority has to find now,
    in place of all that was said before. ChallengesShown follows, the other way."""

    number: int
    texts: dict[str, str]  # by token (http-01)
    certificates: dict[str, bytes]  # by host a key with its certificate, PEM (tls-alpn-01)


class ChallengesShown(msgspec.Struct, tag="challengesshown"):
    """From the pump, by the parent: clients see the challenges of that number."""

    number: int


class TryAgain(msgspec.Struct, tag="tryagain"):
    """To the process that gets certificates: what has failed is to be tried now."""


Order = (
    Attach
    | Retire
    | Ended
    | LogFile
    | ErrorLogFile
    | Join
    | Open
    | Drain
    | HandOver
    | TakeOver
    | Spawn
    | Configure
    | SwitchOver
    | Describe
    | Ping
    | Challenges
    | ChallengesShown
    | TryAgain
)
Report = (
    Ready
    | Failed
    | Drained
    | Hung
    | Lost
    | Cut
    | Configured
    | Spare
    | Described
    | Pong
    | MaxRequests
    | Changed
    | Challenges
    | ChallengesShown
)

encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
