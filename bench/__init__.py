"""Measures halfsync beside its peers, in the same minutes on the same machine.

    python -m bench             all cases, five rounds of three seconds for each server
    python -m bench --help      what can be chosen
    python -m bench.trace       system calls for one request

What makes the figures fair:

  - Each server, with all its processes, is held to one core and the load generator to another, so
    that neither takes time from the other. Where this is not so, the case says it.
  - Rounds are interleaved: each server is loaded once before any is loaded again, and the order
    turns by one each round. A machine that slows down for a minute slows all of them.
  - Medians, and the ratio to each peer of the same run. Figures from another hour are not compared.
  - A server must first give the right bytes, and failed requests are shown beside its figure.
  - Access logs are on wherever the peer has one, and are emptied between rounds.

Nothing is asserted: the exit status says only that the measurement ran.
"""
