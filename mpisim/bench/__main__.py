"""Measure how fast mpisim is: ``python -m mpisim.bench training --case digits-33``.

Each bench runs mpisim and what it is compared with in turns on this machine, and prints a table of the medians, their
ratio, and the ratio's target where there is one. Timings are only worth something on a machine that does nothing else.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mpisim.arguments import OneLineParser, exit_code
from mpisim.bench import (
    analysis,
    devices,
    estimate,
    exchange,
    mixing,
    oversubscribed,
    scaling,
    stacks,
    staging,
    startup,
    training,
)
from mpisim.bench.processes import STOPS
from mpisim.bench.timing import REPEATS, at_least_one, check_writable, machine, write_json
from mpisim.libraries import prepare_libraries

BENCHES = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        training,
        exchange,
        mixing,
        oversubscribed,
        scaling,
        startup,
        estimate,
        devices,
        stacks,
        staging,
        analysis,
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    prepare_libraries()
    parser = OneLineParser(
        prog="python -m mpisim.bench",
        description="Measure how fast mpisim is on this machine.",
        epilog="exit codes: 0 measured, 1 what was found speaks against runs here (devices) or engines (stacks), or"
        " anything else failed, 2 wrong input",
    )
    commands = parser.add_subparsers(dest="bench", required=True)
    for name, bench in BENCHES.items():
        command = commands.add_parser(name, help=bench.HELP, description=f"Measure {bench.HELP}.")
        bench.add_options(command)
        command.add_argument(
            "--repeats", type=at_least_one, default=REPEATS, metavar="N", help=f"turns of each contender ({REPEATS})"
        )
        command.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")

    failed = False

    def measure() -> None:
        nonlocal failed
        options = parser.parse_args(arguments)
        if options.json is not None:
            check_writable(options.json)
        where = machine()
        report = BENCHES[options.bench].measure(options)
        print(report.as_text())
        # A loop on two threads takes twenty times as long where others want the cores: the table must not hide that.
        print(f"{where['cores']} cores, with a load of {where['load']:.1f} as it began")
        if options.json is not None:
            asked = {name: value for name, value in vars(options).items() if name not in ("bench", "json")}
            write_json(options.json, options.bench, asked, where, report)
        failed = report.failed

    with _stopped_in_a_line():
        return exit_code(measure) or int(failed)


@contextmanager
def _stopped_in_a_line() -> Iterator[None]:
    """Let Ctrl-C, or a signal like it, end all with a line, and leave no temporary folder."""

    def stop(number: int, _: object) -> None:
        sys.exit(f"mpisim: stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
