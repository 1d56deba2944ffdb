"""A run whose models torch.distributed carries ends as well as any, and as soon, when a rank fails."""

import re
import subprocess
import sys
from pathlib import Path

import faulty_run
import pytest
from test_faults import KEPT, NO_ANSWER, TIMEOUT, check_log, faulty, launch

LINK = ("--transport", "device", "--device", "cpu")  # ranks that share a GPU would be refused


STEPS = [("train", 1, 2), ("wait", 2, 2), ("aside", 2, 1), ("aside", 0, 3), ("aside", 1, 4)]


@pytest.mark.parametrize(("step", "rank", "call"), STEPS)
def test_a_rank_that_stands_still_is_named(tmp_path: Path, step: str, rank: int, call: int) -> None:
    finished = faulty(tmp_path, 3, step, rank, call, "stop", *LINK)
    assert finished.returncode == 1, finished.stderr
    told = NO_ANSWER.findall(finished.stderr)
    assert {(who, seconds) for who, seconds, _ in told} == {(f"rank {rank}", str(TIMEOUT))}, finished.stderr
    log = tmp_path / "disk/log.h5"
    if step == "aside":  # a group is tried before there is a log, and is ended when all is in it
        assert log.exists() == (call > 2)
    if step != "aside" or call == 4:
        check_log(log, at_least=1, status="complete" if step == "aside" else "running")


ONE_WITHOUT = """
import os, sys
if os.environ["PMI_RANK"] in sys.argv.pop(1):
    os.environ["GLOO_SOCKET_IFNAME"] = "nosuch0"
from mpisim.run import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("ranks", ["012", "1"])
def test_a_backend_that_does_not_start_is_one_line_and_no_log(tmp_path: Path, ranks: str) -> None:
    """Also if it starts on the others: none waits for the one where it does not."""
    finished = launch(tmp_path, "mpiexec", "-n", 3, sys.executable, "-c", ONE_WITHOUT, ranks, *KEPT, *LINK)
    assert finished.returncode == 2, finished.stderr
    assert re.fullmatch(
        rf"mpisim: --transport device: gloo does not start on rank {ranks[0]} on \S+: .*nosuch0: look at what its"
        r" variables in the environment say, or take --transport mpi\n",
        finished.stderr,
    )
    assert not (tmp_path / "disk").exists()


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
