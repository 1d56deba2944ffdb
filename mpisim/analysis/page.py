"""A page to look at: one HTML file with all that it needs, which asks no server for anything.

The library that draws, plotly.js, comes out of the Python package plotly. What a log says is data on the page, never
markup and never script: the page's policy lets a browser run the two scripts that are known here, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpisim.analysis.outputs import check_output, write_text
from mpisim.analysis.page_data import as_json, page_data
from mpisim.errors import InputError

MAX_LOGS = 100
BUDGET = 9_500_000  # bytes of data, beside the library
SCRIPTS = tuple(f"page{part}.js" for part in ("_data", "_style", "_graphs", "_charts", "_texts", "_draw", ""))


def write_page(paths: Sequence[str | Path], out: Path, defaults: Mapping[str, Any] | None = None) -> None:
    """Write a page that shows runs, complete or not.

    Parameters
    ----------
    paths : of logs
    out : Path
        Of the page, ``….html``; a file of this name is replaced.
    defaults : of the options, by name
        To show at once which options were chosen.

    Raises
    ------
    InputError
        If one of the files is no log, there are too many, the page cannot be written, or plotly is not installed.
    """
    if not paths:
        raise InputError("a page needs a log to show")
    if len(paths) > MAX_LOGS:
        raise InputError(
            f"{len(paths):,} logs: a page shows {MAX_LOGS} at most: give fewer, or take compare or figures"
        )
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{out}: a page's name must end in .html")
    check_output(out, paths)
    write_text(out, page_of(paths, defaults))


def page_of(paths: Sequence[str | Path], defaults: Mapping[str, Any] | None = None) -> str:
    """Return the page as text.

    Raises
    ------
    InputError
        If one of the files is no log, or plotly is not installed.
    """
    library = plotly_script()
    runs = page_data(paths, BUDGET, defaults)
    title = runs[0]["title"] if len(runs) == 1 else f"{len(runs)} runs: {runs[0]['title']}, …"
    script = "\n".join(_part(name) for name in SCRIPTS)
    parts = {
        "policy": _policy([library, script]),
        # A reference in place of what is not ASCII: a title may hold bytes that are no text.
        "title": html.escape(title).encode("ascii", "xmlcharrefreplace").decode("ascii"),
        "style": _part("page.css"),
        "logs": as_json(runs),
        "plotly": library,
        "script": script,
    }
    # At once: what one part says is no mark for the next.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _part("page.html"))


def plotly_script() -> str:
    """Return the library that draws.

    Raises
    ------
    InputError
        If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise InputError("page needs plotly: pip install 'mpisim[report]'") from error
    return str(get_plotlyjs())


def _policy(scripts: Sequence[str]) -> str:
    """Return the page's security policy: these scripts, and nothing from anywhere.

    plotly writes styles, and its WebGL part compiles functions.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:;"
        " base-uri 'none'; form-action 'none'"
    )


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
