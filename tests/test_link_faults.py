"""A run whose models torch.distributed carries ends as well as any, and as soon, when a rank fails."""

import re
import subprocess
import sys
from pathlib import Path

import faulty_run
import pytest
from test_faults import NO_ANSWER, TIMEOUT, check_log, faulty, launch

LINK = ("--transport", "device")


@pytest.mark.parametrize(("step", "rank"), [("train", 1), ("wait", 2)])
def test_a_rank_that_stands_still_is_named(tmp_path: Path, step: str, rank: int) -> None:
    finished = faulty(tmp_path, 3, step, rank, 2, "stop", *LINK)
    assert finished.returncode == 1, finished.stderr
    told = NO_ANSWER.findall(finished.stderr)
    assert {(who, seconds) for who, seconds, _ in told} == {(f"rank {rank}", str(TIMEOUT))}, finished.stderr
    check_log(tmp_path / "disk/log.h5", at_least=1)


def test_a_rank_that_is_gone_without_a_word_ends_all(tmp_path: Path) -> None:
    finished = faulty(tmp_path, 3, "send", 1, 2, "exit", *LINK)
    assert finished.returncode != 0
    check_log(tmp_path / "disk/log.h5", at_least=1)


def test_an_exception_on_one_rank_ends_all_with_code_1(tmp_path: Path) -> None:
    finished = faulty(tmp_path, 3, "wait", 0, 2, "raise", *LINK)
    assert finished.returncode == 1, finished.stderr
    assert finished.stderr.count(f"RuntimeError: {faulty_run.MESSAGE}") == 1
    check_log(tmp_path / "disk/log.h5", at_least=1)


def test_a_run_of_one_rank_ends_too(tmp_path: Path) -> None:
    """Nothing travels, and nothing that carries is left to wait for."""
    finished: subprocess.CompletedProcess[str] = launch(
        tmp_path, sys.executable, "-m", "mpisim.run", "--topology", "ring:n=3", "--rounds", "1", "--epochs", "1",
        "--train-samples", "60", "--test-samples", "60", "--threads", "1", "--output", "log.h5", *LINK,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"^messages +0 messages .* each round, by torch.distributed \(gloo\)$", finished.stdout, re.M)
    assert finished.stderr == ""
