"""Analysis: the table of as many logs as the study has runs, and the page of a large run, against what they may take.

The logs are of runs that never were: real topologies and mixing weights, and drawn scores, which nothing packs smaller.
The page is ready when its graph is drawn, in a browser without a network that has not seen the page before.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mpisim.analysis.page import plotly_script
from mpisim.bench.processes import run
from mpisim.bench.timing import SECONDS, Comparison, Figures, Report, alternate, at_least_one, plain_time, table
from mpisim.config import Config
from mpisim.graphs.generators import make_topology
from mpisim.graphs.strategies import mixing_matrix
from mpisim.graphs.topology import Topology
from mpisim.storage.log import Log
from mpisim.storage.variables import FINAL_VARIABLES, VARIABLES, logged_variables
from mpisim.units import plain_bytes

HELP = "summary of many logs, and the page of a large run, against what they may take"
SUMMARY, WRITTEN, READY = "summary", "page written", "page ready"
MEMORY, SIZE = "bytes of memory", "bytes beside the library"
MOST_SECONDS = {SUMMARY: 60.0, READY: 3.0}
MOST_BYTES = {MEMORY: 10**9, SIZE: 10**7}
NUM_GRAPHS, NUM_NODES, NUM_ROUNDS, NUM_RANKS = 36, 33, 40, 12  # of the study; modularity is found once for each graph
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# The command, and then the most memory that it had: VmHWM, for the other figure counts that of the parent too.
MEASURED = """
import re, resource, sys
from pathlib import Path
from mpisim.report.__main__ import main
code = main(sys.argv[1:])
try:
    kibibytes = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
except (OSError, TypeError):
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(kibibytes * 1024, file=sys.stderr)
sys.exit(code)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--logs", type=at_least_one, default=3780, metavar="N", help="that are summed up (3780)")
    parser.add_argument("--nodes", type=at_least_one, default=1000, metavar="N", help="of the large run (1000)")
    parser.add_argument("--rounds", type=at_least_one, default=200, metavar="N", help="of the large run (200)")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench."""
    library = len(plotly_script().encode())
    with tempfile.TemporaryDirectory(prefix="mpisim-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        write_log(folder / "large.h5", f"ba:n={options.nodes},m=2,seed=0", options.rounds)
        logs = write_logs(folder, options.logs)

        def summary() -> Figures:
            seconds, done = run([sys.executable, "-c", MEASURED, "summary", *logs], folder)
            return {SECONDS: seconds, MEMORY: float(done.stderr.split()[-1])}

        def write_page() -> Figures:
            report = [sys.executable, "-m", "mpisim.report"]
            seconds, _ = run([*report, "page", "large.h5", "--out", "page.html"], folder)
            return {SECONDS: seconds, SIZE: float((folder / "page.html").stat().st_size - library)}

        contenders: dict[str, Callable[[], Figures]] = {SUMMARY: summary, WRITTEN: write_page}
        try:
            browser = stack.enter_context(chromium())
        except LookupError as error:
            missing = f"page ready in a browser: not measured: {error}"
        else:
            missing = ""
            contenders[READY] = functools.partial(seconds_until_ready, browser, folder / "page.html")
        series = alternate(contenders, options.repeats, "analysis")
    large = f"{options.nodes:,} nodes × {options.rounds:,} rounds"
    what = {
        SUMMARY: f"summary of {options.logs:,} log{'s' * (options.logs > 1)}",
        READY: f"page of {large}, until it is ready",
    }
    comparisons = [
        Comparison(what[name], [MOST_SECONDS[name]] * options.repeats, series[name][SECONDS], 1.0)
        for name in what
        if name in series
    ]
    rows = [
        ["", "mpisim", "at most"],
        [f"page of {large}, written", plain_time(statistics.median(series[WRITTEN][SECONDS])), "–"],
    ]
    of_figure = {MEMORY: (SUMMARY, f"memory of the {what[SUMMARY]}"), SIZE: (WRITTEN, "page beside the library")}
    for figure, (name, words) in of_figure.items():
        rows.append([words, plain_bytes(statistics.median(series[name][figure])), plain_bytes(MOST_BYTES[figure])])
    notes = ["", *table(rows), *([missing] if missing else [])]
    return Report("at most", "mpisim", comparisons, notes, {name: dict(found) for name, found in series.items()})


def write_logs(folder: Path, count: int) -> list[str]:
    """Write logs of the study's size, on as many graphs as it has; return their names. Each graph's log is copied."""
    names = [f"run-{number}.h5" for number in range(count)]
    for number, name in enumerate(names):
        if number < NUM_GRAPHS:
            write_log(folder / name, f"ba:n={NUM_NODES},m=2,seed={number}", NUM_ROUNDS)
        else:
            shutil.copyfile(folder / names[number % NUM_GRAPHS], folder / name)
    return names


def write_log(path: Path, topology: str, num_rounds: int) -> None:
    """Write the log of a complete run on a topology, with drawn scores."""
    graph, rng = make_topology(topology), np.random.default_rng(0)
    config = Config(topology=topology, rounds=num_rounds)
    variables = logged_variables(**config.moments)
    matrix = mixing_matrix(graph, config.strategy)
    sizes = {"node": graph.num_nodes, "rank": NUM_RANKS, "link": matrix.nnz, "label": 10, "epoch": config.epochs}

    def drawn(name: str) -> np.ndarray:
        shape = [sizes[dim] for dim in VARIABLES[name].dims if dim != "round"]
        return rng.random(shape) if VARIABLES[name].dtype == "f8" else rng.integers(0, 2, shape)

    static = {name: drawn(name) for name in (*variables, *FINAL_VARIABLES) if VARIABLES[name].dims[0] != "round"}
    attributes = {
        "title": f"degree on {topology}, digits, seed 0",
        "config": json.dumps(config.as_dict()),
        "data_kind": "image",
    }
    log = Log.create(path, sizes, static | _links(graph, matrix), attributes, variables=variables)
    for number in range(1, num_rounds + 1):
        log.append(number, {name: drawn(name) for name in variables if VARIABLES[name].dims[0] == "round"})
    log.set_status("complete")


def _links(graph: Topology, matrix: Any) -> dict[str, np.ndarray]:
    """Return what a log holds of a topology and its W."""
    return {
        "degree": graph.degrees,
        "is_ood": np.arange(graph.num_nodes) == graph.nodes_by_degree()[0],
        "link_target": np.repeat(np.arange(graph.num_nodes), np.diff(matrix.indptr)),
        "link_source": matrix.indices,
        "link_weight": matrix.data,
    }


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a headless Chromium, by Playwright.

    Raises
    ------
    LookupError
        If one of both is missing; the message says which.
    """
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ModuleNotFoundError as error:
        raise LookupError("needs playwright: pip install playwright") from error
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=found, args=ARGUMENTS)
        except playwright.Error as error:
            raise LookupError("needs Chromium: playwright install chromium") from error
        yield browser
        browser.close()


def seconds_until_ready(browser: Any, page: Path) -> Figures:
    """Return how long a browser takes from asking for a page until the page says that it is ready."""
    context = browser.new_context(offline=True)
    try:
        tab = context.new_page()
        started = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]", timeout=120_000)
        return {SECONDS: time.perf_counter() - started}
    finally:
        context.close()
