"""Look at logs: ``python -m mpisim.report summary results/run.h5``.

Needs neither MPI nor torch, and works on a log whose run goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mpisim.analysis.summary import as_text, summarize
from mpisim.arguments import OneLineParser, exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = OneLineParser(prog="python -m mpisim.report", description="Look at the logs of runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    summary = commands.add_parser("summary", help="how each run ended, and where its time went")
    summary.add_argument("logs", nargs="+", metavar="LOG")

    def show() -> None:
        for path in parser.parse_args(arguments).logs:
            found = summarize(path)
            print(f"{found.path}: {found.title} ({found.status})")
            print(as_text(found))

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
