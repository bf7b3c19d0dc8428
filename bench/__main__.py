"""The command line: `python -m bench`."""

from __future__ import annotations

import argparse
import os
import platform
import sys

from bench import load
from bench.cases import CASES
from bench.compare import Pace
from bench.servers import version

SERVERS = ("halfsync", "nginx", "granian", "gunicorn", "waitress")


def main() -> int:
    chosen = _arguments()
    if not load.installed():
        print("The load generator is missing: apt-get install wrk", file=sys.stderr)
        return 2
    pace = _pace(chosen.rounds, chosen.seconds)
    _describe(pace)
    for name in chosen.cases or CASES:
        case = CASES[name]
        print(f"\n{name}: {' '.join((case.__doc__ or '').split())}\n")
        case(pace)
    return 0


def _arguments() -> argparse.Namespace:
    names = "\n".join(f"  {name:9} {' '.join((case.__doc__ or '').split())}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure halfsync beside its peers.",
        epilog=f"cases:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="which (default: all)")
    parser.add_argument("--rounds", type=_positive, default=5, help="for each server (default 5)")
    parser.add_argument("--seconds", type=_positive, default=3, help="of each round (default 3)")
    chosen = parser.parse_args()
    for name in chosen.cases:
        if name not in CASES:
            parser.error(f"there is no case '{name}'; there are {', '.join(CASES)}")
    return chosen


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _pace(rounds: int, seconds: int) -> Pace:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("careful: one core only, so servers and load generator share it")
        return Pace(rounds, seconds, {cores[0]}, {cores[0]})
    return Pace(rounds, seconds, {cores[0]}, {cores[1]})


def _describe(pace: Pace) -> None:
    print(f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name in SERVERS:
        print(f"  {name:9} {version(name) or 'missing'}")
    print(f"{pace.rounds} rounds of {pace.seconds} s; servers on core {_cores(pace.servers_core)}", end="")
    print(f", wrk on core {_cores(pace.load_core)} with one thread; medians")


def _cores(cores: set[int]) -> str:
    return ",".join(map(str, sorted(cores)))


if __name__ == "__main__":
    try:
        status = main()
    except load.CannotLoad as trouble:
        print(trouble, file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
