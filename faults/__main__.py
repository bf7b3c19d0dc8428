"""The command line: `python -m faults`."""

from __future__ import annotations

import argparse
import sys

from faults import asgi_faults, crowds, http2_crowds, processes
from faults.run import Verdict, run
from faults.server import CannotStart
from faults.table import TABLE

assert processes  # its faults are in TABLE, too
assert crowds
assert http2_crowds
assert asgi_faults

SHOWN = 5
"""Sentences for each fault about what is wrong."""

_HEADINGS = ("requests", "right", "error", "aborted", "WRONG", "HUNG", "again after")
_LINE = "{:26}" + "{:>10}" * (len(_HEADINGS) - 1) + "{:>13}"


def main() -> int:
    chosen = _arguments()
    print(_LINE.format("fault", *_HEADINGS), flush=True)
    good = True
    for name in chosen.faults or TABLE:
        verdict = run(TABLE[name], chosen.seconds, chosen.clients, chosen.seed)
        print(describe(verdict), flush=True)
        good = good and verdict.is_good
    return 0 if good else 1


def describe(verdict: Verdict) -> str:
    """The table's line, and below it what is wrong."""
    name = verdict.fault.name
    if verdict.skipped:
        return f"{name:26}  not run: {verdict.skipped}"
    judge = verdict.judge
    figures = (judge.requests, judge.right, sum(judge.errors.values()), judge.aborted)
    again = "" if verdict.fault.ends else f"{verdict.normal_after:.1f} s"
    lines = [_LINE.format(name, *figures, len(judge.wrong), len(judge.hung), again)]
    for word, told in (("WRONG", judge.wrong), ("HUNG", judge.hung)):
        lines += [f"    {word} {one}" for one in told[:SHOWN]]
    if verdict.log:
        lines += [
            "    the end of the error log:",
            *(f"    | {one}" for one in verdict.log.splitlines()[-25:]),
        ]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    width = max(map(len, TABLE))
    names = "\n".join(f"  {name:{width}}  {fault.sentence}" for name, fault in TABLE.items())
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description="Look for wrong responses while something goes wrong.",
        epilog=f"faults:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="which (default: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each fault (default 10)")
    parser.add_argument("--clients", type=int, default=10, help="of the load (default 10)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the load's and the faults' choices (default 1)"
    )
    chosen = parser.parse_args()
    for name in chosen.faults:
        if name not in TABLE:
            parser.error(f"there is no fault '{name}'; there are {', '.join(TABLE)}")
    return chosen


if __name__ == "__main__":
    try:
        status = main()
    except CannotStart as trouble:
        print(trouble, file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
