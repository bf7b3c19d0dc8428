"""Fault runs: is every response right while something goes wrong?

    make faults                               every fault, about ten seconds each
    make faults ARGS="worker-killed --seconds 3"
    make faults ARGS=--help                   all faults, with a sentence each

For each fault a server is started, clients send it a steady mix of requests (load.py), and meanwhile the
fault happens (processes.py, crowds.py). Every response is compared with the one right response to its request
(requests.py), which both sides derive from the request's number (content.py, app.py). What a POST has done is
counted by the application, so that a request that ran twice is found, too. Each response is one of

    right      status, fields and every byte of the body
    error      a complete 5xx response: the request failed, and the client knows
    aborted    a reset, or an end before the end: the client can see that something is missing
    WRONG      anything else: another request's bytes, a part that looks complete, one response too many,
               a POST that ran twice, a right response that the access log does not have
    HUNG       neither a response nor a close within ten seconds; or no normal service after the fault

Faults that harm no request (a reload, a slow client) are marked `harmless`: there an error or an abort is
WRONG, too. WRONG and HUNG must be zero; the exit status says whether they are.

To add a fault, write a function under the decorator `fault` (table.py) in the file of its kind: processes.py,
crowds.py, http2_crowds.py or asgi_faults.py.
"""
