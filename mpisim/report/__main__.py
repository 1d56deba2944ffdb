"""Look at logs: ``python -m mpisim.report summary results/run.h5``.

    python -m mpisim.report summary results/*.h5                    # how each run ended, and where its time went
    python -m mpisim.report compare results/*.h5                    # means over seeds, and what the topology brings
    python -m mpisim.report figures results/*.h5 --out figures      # the paper's figures
    python -m mpisim.report animate results/run.h5 --out run.gif    # the graph over the rounds
    python -m mpisim.report page results/run.h5 --out run.html      # one page to look at, with everything in it
    python -m mpisim.report watch results/run.h5                    # a run that goes on

Needs neither MPI nor torch, and works on a log whose run goes on. Exit codes: 0; 2 wrong input, or a log that cannot be
read, told in one line; 1 anything else.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from mpisim.arguments import OneLineParser, exit_code
from mpisim.errors import InputError
from mpisim.report import commands

# What the commands need beside the core, all of it in the extra "report".
OPTIONAL = ("PIL", "matplotlib", "pandas", "plotly", "rich", "xarray")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "–" is no reason to fail
    all_shown = True

    def show() -> None:
        nonlocal all_shown
        options = make_parser().parse_args(arguments)
        try:
            all_shown = options.run(options) is not False
            sys.stdout.flush()
        except ModuleNotFoundError as error:
            library = str(error.name).split(".")[0]
            if library not in OPTIONAL:
                raise
            raise InputError(f"needs {library}: pip install 'mpisim[report]'") from error

    try:
        code = exit_code(show)
    except BrokenPipeError:  # whoever reads has read enough; Python's last flush must not find that out again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code if all_shown else 2


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command: its subcommands, each with the function that does it as ``run``."""
    parser = OneLineParser(prog="python -m mpisim.report", description="Look at the logs of runs.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in commands.COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=f"Show {command.help}.")
        command.add_options(subparser)
        subparser.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
