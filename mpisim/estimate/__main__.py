"""Weak scaling on paper: ``python -m mpisim.estimate --ranks 1 10 100 1000 10000 --out scaling.svg``.

The options of ``mpisim.run`` say what every rank has to do; its topology's n grows with the ranks. How fast a node
trains and the rest is measured here in some seconds; what the ranks would say to each other is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mpisim.analysis.outputs import check_output
from mpisim.arguments import OneLineParser, exit_code, parse_config
from mpisim.errors import InputError

RANKS = [1, 10, 100, 1_000, 10_000]
NODES_PER_RANK = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = OneLineParser(
        prog="python -m mpisim.estimate",
        description="Estimate rounds on more and more ranks, each with as many nodes that have as much to do.",
        epilog="and all options of mpisim.run: --topology ba:n=24,m=2,seed=0 grows, --latency, --bandwidth and"
        " --ranks-per-host tell of the machine",
        allow_abbrev=False,
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, metavar="N", help="(1 10 100 1000 10000)")
    parser.add_argument("--nodes-per-rank", type=int, default=NODES_PER_RANK, metavar="N", help=f"({NODES_PER_RANK})")
    parser.add_argument("--out", type=Path, metavar="FILE.svg", help="draw it there; or FILE.pdf, FILE.png")

    def command() -> None:
        options, others = parser.parse_known_args(arguments)
        config = parse_config(others)
        for name, number in [("ranks", each) for each in options.ranks] + [("nodes-per-rank", options.nodes_per_rank)]:
            if number < 1:
                raise InputError(f"--{name} {number}: must be 1 or more")
        if options.out is not None:
            check_output(options.out, [])
            if options.out.suffix not in (".svg", ".pdf", ".png"):
                raise InputError(f"--out {options.out}: the name must end in .svg, .pdf or .png")
        from mpisim.estimate.weak_scaling import scaling_table, weak_scaling

        ranks = sorted(set(options.ranks))
        estimates, lines = weak_scaling(config, ranks, options.nodes_per_rank)
        print("\n".join([*lines, "", scaling_table(estimates, options.nodes_per_rank, config.rounds)]))
        if options.out is not None:
            from mpisim.estimate.figure import draw_scaling

            title = f"{options.nodes_per_rank} nodes a rank, {config.topology} with more nodes, {config.dataset}"
            draw_scaling(estimates, config.rounds, title, options.out)

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
