"""The command: what it prints, its exit codes, and that wrong input touches nothing on disk."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpisim.analysis.logs import open_file
from mpisim.run import main

RUN = [sys.executable, "-m", "mpisim.run"]
SHORT = ["--topology", "ring:n=4", "--rounds", "2", "--epochs", "1", "--train-samples", "100", "--test-samples", "60"]
TWO_BY_THREE = "0 1 0\n1 0 1\n"


def launch(size, *arguments, cwd, timeout=120):
    return subprocess.run(
        ["mpiexec", "-n", str(size), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
        path: b"" for path in folder.rglob("*") if path.is_dir()
    }


@pytest.fixture(autouse=True)
def exceptions_come_here(monkeypatch):
    """In this process a run that fails must not take the tests with it."""

    def reraise(comm):
        raise

    monkeypatch.setattr("mpisim.ranks.startup.abort", reraise)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# A run that works.


def test_plan_rounds_and_table(here, capsys):
    assert main(SHORT) == 0
    printed = capsys.readouterr().out
    assert "ring:n=4: 4 nodes, 4 edges, degrees 2, connected" in printed
    assert "degree, softmax at temperature 0.1" in printed
    assert "100 training samples" in printed
    assert "mlp-small, 17,226 parameters" in printed
    assert "0 messages and 0 B" in printed  # all nodes are on one rank
    assert "results/run.h5" in printed
    with h5py.File("results/run.h5") as log:
        assert log.attrs["status"] == "complete"
        iid, ood = log["iid_accuracy"][:].mean(axis=1), log["ood_accuracy"][:].mean(axis=1)
        labels = log["label_counts"][:]
        assert labels.sum() == 100
    for round in (1, 2):
        assert f"round {round}/2  IID {iid[round - 1]:.3f}  OOD {ood[round - 1]:.3f}" in printed
    table = re.search(r"IID +([\d.]+) +[\d.]+ +[\d.]+ +([\d.]+)", printed)
    assert float(table[1]) == pytest.approx(iid[1], abs=6e-4)
    assert float(table[2]) == pytest.approx(iid.mean(), abs=6e-4)
    [command] = re.findall(r"look at it: (.*)", printed)
    shown = subprocess.run(command.split(), capture_output=True, text=True, check=True, env=with_python()).stdout
    assert table[0] in shown


def with_python():
    """Return an environment in which ``python`` is the one that runs the tests."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_names_without_output_are_the_next_free_ones(here):
    for _ in range(3):
        assert main([*SHORT, "--rounds", "1", "--quiet"]) == 0
    assert main([*SHORT, "--rounds", "1", "--quiet", "--name", "other"]) == 0
    assert sorted(path.name for path in Path("results").glob("*.h5")) == ["other.h5", "run-2.h5", "run-3.h5", "run.h5"]


def test_overwrite_replaces_the_log(here):
    assert main([*SHORT, "--output", "a/log.h5", "--quiet"]) == 0
    assert main([*SHORT, "--output", "a/log.h5", "--quiet", "--overwrite", "--rounds", "1"]) == 0
    with h5py.File("a/log.h5") as log:
        assert len(log["round"]) == 1


def test_quiet_prints_nothing(here, capfd):
    assert main([*SHORT, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_dry_run_prints_the_plan_and_writes_nothing(here, capsys):
    assert main([*SHORT, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "not written: --dry-run" in printed
    assert "round " not in printed
    assert contents(here) == {}


@pytest.mark.parametrize(
    "options, words",
    [
        ("--temperature -0.1", "where the temperature is negative, the least central neighbor weighs most"),
        ("--schedule cosine --schedule-floor -5", "where the temperature is negative"),
        ("--schedule oscillate", "softmax at temperature 0.1 at first, schedule oscillate"),
        ("--participation 0.5 --link-dropout 0.25", "in each round 2 of 4 nodes take part, drawn anew"),
        ("--link-dropout 0.25", "every edge fails with probability 0.25"),
        ("--proximal 0.1", "batch 16, proximal 0.1"),
        ("--ood none", "OOD           none"),
        ("--strategy random --temperature -0.1", "negative, the lowest number drawn weighs most"),
        ("--momentum 0.5 --optimizer adam", "--momentum changes nothing here: the optimizer is adam"),
        ("--strategy none --proximal 0.5", "--proximal changes nothing here: no node trains and hears a neighbor"),
        ("--no-train --shuffle", "--shuffle changes nothing here: no node trains"),
        ("--placement mincut", "--placement changes nothing here: one rank owns all nodes"),
        ("--strategy none --wire bfloat16", "--wire changes nothing here: no node listens along an edge"),
        ("--strategy fl --temperature 0.5", "--temperature changes nothing here: fl has no softmax"),
        ("--ood newclass --ood-fraction 0.2", "--ood-fraction changes nothing here: --ood is newclass"),
        ("--engine sequential", "engine        sequential: node after node"),
        ("--engine batched --stack 3", "engine        batched: 3 nodes at a time"),
        ("--evaluate-at aggregated", "models are tested after aggregation"),
        ("--evaluate-at both --evaluate-every epoch", "models are tested after every epoch and after aggregation"),
        (
            "--dataset tinymem --tinymem-examples 9 --tinymem-tests 2 --tinymem-length 3 --train-samples 30"
            " --test-samples 8",
            "node 0 and the test set got no OOD sample",
        ),
    ],
)
def test_the_plan_says_what_the_options_mean(here, capsys, options, words):
    assert main([*SHORT, "--dry-run", *options.split()]) == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", ["--strategy unweighted", "--normalize sum", "--strategy degree-similarity --schedule oscillate"]
)
def test_a_negative_temperature_is_noted_only_where_its_sign_matters(here, capsys, options):
    assert main([*SHORT, "--dry-run", "--temperature", "-0.1", *options.split()]) == 0
    assert "weighs most" not in capsys.readouterr().out


def test_the_plain_plan_has_no_notes(here, capsys):
    assert main([*SHORT, "--dry-run"]) == 0
    assert "note" not in capsys.readouterr().out


def test_options_come_from_a_file_and_flags_win(here, capsys):
    Path("study.toml").write_text('topology = "star:n=5"\nrounds = 3\nstrategy = "unweighted"\n')
    assert main(["--config", "study.toml", "--rounds", "4", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "star:n=5" in printed
    assert "4 rounds" in printed
    assert "mixing         unweighted" in printed.replace("mixing        ", "mixing         ")


def test_help_names_the_exit_codes(here, capsys):
    assert main(["--help"]) == 0
    assert "0 complete, 2 wrong input" in capsys.readouterr().out


def test_a_terminal_gets_a_progress_bar(here):
    """On a terminal, seen through mpiexec's pipes, the rounds are one bar that is redrawn."""
    command = ["mpiexec", "-n", "1", *RUN, *SHORT, "--rounds", "3"]
    primary, secondary = pty.openpty()
    process = subprocess.Popen(command, cwd=here, stdin=secondary, stdout=secondary, stderr=secondary)
    os.close(secondary)
    printed = b""
    while True:
        try:
            piece = os.read(primary, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        printed += piece
    assert process.wait(timeout=60) == 0
    text = printed.decode()
    assert "round 3/3" in text
    assert "\x1b[" in text
    assert "IID" in text
    assert not re.search(r"round 3/3  IID", text)  # the plain line


# Wrong input: one line, code 2, nothing on disk.

WRONG = {
    "an unknown option": (["--round", "3"], "unrecognized arguments: --round"),
    "an unknown strategy": (["--strategy", "degre"], "unknown strategy 'degre': choose from betweenness"),
    "an unknown data set": (["--dataset", "minst"], "unknown dataset 'minst': choose from"),
    "an unknown model": (["--model", "resnet"], "unknown model 'resnet': choose from cnn, cnn-dropout"),
    "an unknown optimizer": (["--optimizer", "lion"], "unknown optimizer 'lion': choose from adam"),
    "an unknown device": (["--device", "tpu"], "unknown device 'tpu'"),
    "an unknown topology": (["--topology", "blob:n=3"], "unknown topology 'blob:n=3'"),
    "an unknown parameter": (["--topology", "ring:k=3"], "unknown parameter 'k'"),
    "a missing parameter": (["--topology", "ba:n=3"], "m= is missing"),
    "an impossible graph": (["--topology", "ba:n=3,m=3"], "m < n"),
    "a missing option file": (["--config", "no.toml"], "no.toml: no such file"),
    "an unknown key": (["--config", "key.toml"], "key.toml: unknown key 'round'"),
    "a broken option file": (["--config", "broken.toml"], "broken.toml: cannot be read as TOML"),
    "a missing topology file": (["--topology", "no.txt"], "no.txt: no such topology file"),
    "a topology that is not square": (["--topology", "wide.txt"], "wide.txt: has the shape"),
    "a ragged topology": (["--topology", "ragged.txt"], "row 2 has 1 value, row 1 has 2 values"),
    "a topology that is not symmetric": (["--topology", "oneway.txt"], "is not symmetric: row 1, column 2"),
    "an empty topology": (["--topology", "empty.txt"], "is empty"),
    "a topology with NaN": (["--topology", "nan.txt"], "row 1, column 2 is nan"),
    "a negative edge": (["--topology", "negative.txt"], "row 1, column 2 is -1"),
    "an edge above 1": (["--topology", "above.txt"], "row 1, column 2 is 2"),
    "a topology of words": (["--topology", "words.txt"], "words.txt: line 1"),
    "an OOD node that does not exist": (["--topology", "ring:n=4", "--ood-node", "4"], "has the nodes 0…3"),
    "a negative OOD node": (["--ood-node", "-1"], "--ood-node"),
    "an OOD rank that does not exist": (["--topology", "ring:n=4", "--ood-rank", "5"], "has 4 nodes"),
    "two ways to choose the OOD node": (["--ood-rank", "1", "--ood-node", "0"], "give one of them"),
    "more nodes than samples": (["--topology", "ring:n=2000"], "2000 nodes but only 1438 training samples"),
    "an OOD node without a sample to spare": (
        ["--topology", "ring:n=4", "--train-samples", "4"],
        "has one training sample",
    ),
    "more samples than there are": (["--train-samples", "1439"], "digits has 1438"),
    "data that is not there": (
        ["--dataset", "mnist", "--no-download"],
        "MNIST: data/MNIST/raw lacks train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images",
    ),
    "truncated data": (
        ["--dataset", "mnist", "--data-dir", "stub", "--no-download"],
        "a file is truncated or not MNIST",
    ),
    "an output that exists": (["--output", "key.toml"], "key.toml: exists already"),
    "an output that is a folder": (["--output", "stub"], "is a folder"),
    "an output below a file": (["--output", "key.toml/a/log.h5"], "is not a folder"),
    "an output that cannot be written": (["--output", "/proc/mpisim/log.h5"], "the log's folder cannot be written"),
    "overwriting what is no log": (["--output", "key.toml", "--overwrite"], "key.toml: is no log of mpisim"),
    "an output that ends like a folder": (["--output", "new/"], "is a folder"),
    "an output with an endless name": (["--output", "x" * 300 + ".h5"], "File name too long"),
    "a name without end": (["--name", "x" * 300], "a name of 303 characters: take a shorter one"),
    "an OOD node where there is none": (["--ood", "none", "--ood-node", "1"], "with --ood none"),
    "a temperature of nearly zero": (["--temperature", "1e-320"], "must not be zero, nor nearly"),
    "threads without end": (["--threads", "100000"], "must be 1,024 at most"),
    "a model for other data": (["--model", "vgg16"], "'vgg16' needs images of 32×32, this data has 1×8×8"),
    "a kind of OOD for other data": (
        ["--dataset", "tinymem", "--ood", "noise", "--tinymem-examples", "50", "--tinymem-tests", "10"],
        "--ood noise: is for images",
    ),
    "overwriting nothing in particular": (["--overwrite"], "needs --output"),
    "zero rounds": (["--rounds", "0"], "--rounds 0: must be 1 or more"),
    "negative epochs": (["--epochs", "-1"], "--epochs -1: must be 1 or more"),
    "zero nodes": (["--topology", "ring:n=0"], "at least one node"),
    "a batch of nothing": (["--batch-size", "0"], "--batch-size 0: must be 1 or more"),
    "zero threads": (["--threads", "0"], "--threads 0: must be 1 or more"),
    "half a round": (["--rounds", "0.5"], "invalid int value: '0.5'"),
    "a label alpha of zero": (["--label-alpha", "0"], "--label-alpha 0.0: must be above 0"),
    "a negative sample alpha": (["--sample-alpha", "-1"], "--sample-alpha -1.0: must be above 0"),
    "an alpha that is no number": (["--sample-alpha", "nan"], "--sample-alpha nan: must be"),
    "shares that make no whole": (["--local-split", "0.7", "0.2", "0.2"], "the shares must add up to 1"),
    "shards too small to split": (
        ["--topology", "ring:n=30", "--train-samples", "40", "--local-split", "0.7", "0.2", "0.1"],
        "30 nodes but only 40 training samples: every node needs at least 30",
    ),
    "labels too rare to split": (
        ["--topology", "ring:n=4", "--train-samples", "130", "--local-split", "0.7", "0.2", "0.1"],
        "training samples of label 4: every node needs at least 3",
    ),
    "a fraction of zero": (["--ood-fraction", "0"], "--ood-fraction 0.0: must be above 0"),
    "a fraction of one": (["--ood-fraction", "1"], "--ood-fraction 1.0: must be below 1"),
    "a temperature of zero": (["--temperature", "0"], "--temperature 0: must not be zero"),
    "a negative learning rate": (["--lr", "-0.1"], "--lr -0.1: must be above 0"),
    "an endless learning rate": (["--lr", "inf"], "--lr inf: must be"),
    "resuming what is no log": (["--resume", "--output", "key.toml"], "key.toml: is no log of mpisim that a run could"),
    "resuming a folder": (["--resume", "--output", "stub"], "--output stub: is a folder"),
    "resuming below a file": (["--resume", "--output", "key.toml/log.h5"], "is not a folder"),
    "resuming and overwriting": (["--resume", "--overwrite", "--output", "a.h5"], "--overwrite and --resume: give one"),
    "overwriting a folder": (["--overwrite", "--output", "stub"], "--output stub: is a folder"),
    "an output without a name": (["--output", "."], "is a folder"),
    "an output with a NUL": (["--config", "nul.toml"], "null"),
    "a name that is a path": (["--name", "a/b"], "--name 'a/b': must be a plain file name"),
    "a walltime of zero": (["--walltime", "0"], "--walltime 0.0: must be above 0"),
    "a walltime in words": (["--walltime", "1:00:00"], "invalid float value: '1:00:00'"),
    "a walltime that is no number": (["--walltime", "nan"], "--walltime nan: must be"),
    "a timeout of zero": (["--timeout", "0"], "--timeout 0.0: must be above 0"),
    "a negative timeout": (["--timeout", "-5"], "--timeout -5.0: must be above 0"),
    "checkpoints every -1 rounds": (["--checkpoint-every", "-1"], "--checkpoint-every -1: must be 0 or more"),
    "checkpoints every half round": (["--checkpoint-every", "0.5"], "invalid int value: '0.5'"),
    "an unknown wire": (["--wire", "float16"], "unknown wire 'float16': choose from bfloat16, float32"),
    "an unknown placement": (["--placement", "random"], "unknown placement 'random': choose from contiguous, mincut"),
    "an unknown engine": (["--engine", "turbo"], "unknown engine 'turbo': choose from auto, batched, sequential"),
    "a stack of nothing": (["--stack", "0"], "--stack 0: must be 1 or more"),
    "a stack where nodes train one by one": (["--stack", "4", "--engine", "sequential"], "--stack: is for --engine"),
    "an option without its value": (["--rounds"], "argument --rounds: expected one argument"),
    "a word that belongs to no option": (["results"], "unrecognized arguments: results"),
    "a negative seed": (["--seed", "-1"], "--seed -1: must be 0 or more"),
    "one beta": (["--betas", "0.9"], "argument --betas: expected 2 arguments"),
    "a share of no nodes": (["--participation", "0"], "--participation 0.0: must be above 0"),
    "links that always fail": (["--link-dropout", "1"], "--link-dropout 1.0: must be below 1"),
    "images' changes to texts": (["--dataset", "tinymem", "--augment"], "--augment: is for images, not for tinymem"),
    "epochs of aggregated models": (
        ["--evaluate-every", "epoch", "--evaluate-at", "aggregated"],
        "--evaluate-every epoch: tests trained models",
    ),
    "an option file that is a folder": (["--config", "stub"], "stub: is a folder: name a plain file"),
    "more nodes than memory holds": (["--topology", "ring:n=1000000000000"], "too many nodes to hold in memory"),
    "a topology file of no kind": (["--topology", "key.toml"], "unknown topology 'key.toml': give a file"),
    "a topology that is no array": (["--topology", "words.npy"], "words.npy: holds no plain numpy array"),
    "a topology with a DOCTYPE": (["--topology", "doctype.graphml"], "doctype.graphml: has a DOCTYPE: remove it"),
    "an edge list with gaps": (["--topology", "gaps.edgelist"], "gaps.edgelist: its nodes are 0…1000000000000, but 1"),
}


@pytest.fixture
def with_wrong_files(here):
    Path("key.toml").write_text("round = 3\n")
    Path("broken.toml").write_text("rounds = = 3\n")
    Path("nul.toml").write_text(r'output = "a\u0000b.h5"')
    Path("wide.txt").write_text(TWO_BY_THREE)
    Path("ragged.txt").write_text("0 1\n1\n")
    Path("oneway.txt").write_text("0 1\n0 0\n")
    Path("empty.txt").write_text("\n")
    Path("nan.txt").write_text("0 nan\nnan 0\n")
    Path("negative.txt").write_text("0 -1\n-1 0\n")
    Path("above.txt").write_text("0 2\n2 0\n")
    Path("words.txt").write_text("zero one\n")
    Path("words.npy").write_text("zero one\n")
    Path("doctype.graphml").write_text('<!DOCTYPE graphml [<!ENTITY a "0.5">]><graphml/>')
    Path("gaps.edgelist").write_text("0 1000000000000\n")
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        path = Path(f"stub/{name}-ubyte")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\0\x08\x03\0\0")
    return here


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_code_2(with_wrong_files, capsys, case):
    arguments, words = WRONG[case]
    before = contents(with_wrong_files)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mpisim: ")
    assert words in err
    assert err.count("\n") == 1
    assert contents(with_wrong_files) == before


def test_wrong_input_ends_all_ranks_with_one_line(here):
    finished = launch(3, *RUN, "--topology", "ring:n=4", "--ood-node", "9", cwd=here)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == "mpisim: --ood-node 9: ring:n=4 has the nodes 0…3\n"
    assert contents(here) == {}


def test_a_foreign_mpi_is_noticed(here):
    """A launcher that says three ranks to a rank that is alone: started by another MPI than mpi4py's."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "MPI"))}
    finished = subprocess.run(
        [*RUN, *SHORT], cwd=here, env=alone | {"OMPI_COMM_WORLD_SIZE": "3"}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert "OMPI_COMM_WORLD_SIZE=3, but this rank is alone" in finished.stderr
    assert contents(here) == {}


def test_a_failure_on_the_only_rank_is_told_once(here):
    script = here / "fails.py"
    script.write_text(FAILS_ON_RANK_1.replace("rank == 1", "rank == 0"))
    finished = subprocess.run([sys.executable, script, *SHORT, "--rounds", "30"], capture_output=True, text=True)
    assert finished.returncode == 1
    assert finished.stderr.count("RuntimeError: the tile is gone") == 1
    assert "mpisim: rank 0 of 1 on" in finished.stderr
    with h5py.File(here / "results" / "run.h5") as log:
        assert log["round"][:].tolist() == list(range(1, 20))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_standard_output_does_not_end_the_run(here):
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run([*RUN, *SHORT], cwd=here, stdout=full, stderr=subprocess.PIPE, text=True)
    assert finished.returncode == 0, finished.stderr
    with h5py.File(here / "results" / "run.h5") as log:
        assert log.attrs["status"] == "complete"


FROM_PYTHON = """
import sys
from mpi4py import MPI
from mpisim import Config, Simulation
import mpisim.nodes

original = mpisim.nodes.Nodes.train

def train(self, round, *others):
    if MPI.COMM_WORLD.rank == 0 and round == 2:
        raise OSError("the disk is gone")
    return original(self, round, *others)

mpisim.nodes.Nodes.train = train
Simulation(Config(topology="ring:n=4", rounds=1000, train_samples=100, quiet=True), MPI.COMM_WORLD).run()
"""


def test_from_python_too_a_failure_on_one_rank_ends_all(here):
    (here / "script.py").write_text(FROM_PYTHON)
    finished = launch(2, sys.executable, "script.py", cwd=here)
    assert finished.returncode == 1
    assert "mpisim: rank 0 of 2 on" in finished.stderr
    assert "OSError: the disk is gone" in finished.stderr


# Several ranks.


def test_surplus_ranks_are_named_once_and_the_run_completes(here):
    finished = launch(3, *RUN, *SHORT, "--topology", "path:n=2", cwd=here)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("1 of 3 ranks own no node and stay idle") == 1
    with h5py.File(here / "results" / "run.h5") as log:
        assert log["train_seconds"].shape == (2, 2)
        np.testing.assert_array_equal(log["rank_of_node"][:], [0, 1])
        np.testing.assert_array_equal(log["bytes_sent"][:], np.full((2, 2), 17_226 * 4))


FAILS_ON_RANK_1 = """
import sys
import mpi4py
from mpi4py import MPI
from mpisim import run
import mpisim.nodes

original = mpisim.nodes.Nodes.train

def train(self, round, *others):
    if MPI.COMM_WORLD.rank == 1 and round == 20:
        raise RuntimeError("the tile is gone")
    return original(self, round, *others)

mpisim.nodes.Nodes.train = train
sys.exit(run.main(sys.argv[1:]))
"""


def test_a_failure_on_one_rank_ends_all_and_names_it(here):
    script = here / "fails.py"
    script.write_text(FAILS_ON_RANK_1)
    finished = launch(3, sys.executable, script, *SHORT, "--rounds", "1000", cwd=here)
    assert finished.returncode == 1
    assert re.search(r"mpisim: rank 1 of 3 on \S+ failed:", finished.stderr)
    assert "RuntimeError: the tile is gone" in finished.stderr
    with open_file(here / "results" / "run.h5") as log:  # patient: mpiexec returns a moment before rank 0 is gone
        # Rank 1 was in round 20, so rank 0 had sent its models of round 19 and, before that, logged round 18.
        assert log["round"][:].tolist() in (list(range(1, 19)), list(range(1, 20)))
        assert log.attrs["status"] == "running"


def test_a_killed_run_leaves_every_finished_round(here):
    """SIGKILL to all ranks in the middle: what was printed is in the log, and the log opens."""
    command = ["mpiexec", "-n", "2", *RUN, *SHORT, "--rounds", "100000"]
    process = subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True, start_new_session=True)
    shown = 0
    for line in process.stdout:
        found = re.match(r"round +(\d+)/100000", line)
        shown = int(found[1]) if found else shown
        if shown >= 25:
            break
    ranks = list(pids_of(here))
    for pid in [*map(int, ranks), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    with open_file(here / "results" / "run.h5") as log:
        rounds = log["round"][:]
        assert len(rounds) >= shown
        np.testing.assert_array_equal(rounds, np.arange(1, len(rounds) + 1))
        assert log.attrs["status"] == "running"
        assert np.isfinite(log["iid_accuracy"][:shown]).all()
        assert (log["iid_loss"][:shown] > 0).all()


def pids_of(folder):
    """Return the ranks that work in a folder; the process that runs the tests, which may stand in it, is none."""
    for process in Path("/proc").iterdir():
        try:
            is_rank = process.name.isdigit() and process.name != str(os.getpid())
            is_here = is_rank and (process / "cwd").resolve() == folder.resolve()
            if is_here and b"python" in (process / "cmdline").read_bytes().split(b"\0")[0]:
                yield process.name
        except OSError:  # not ours to look into, or gone
            continue


def test_a_reader_that_keeps_the_log_open_does_not_stop_the_run(here):
    process = subprocess.Popen([*RUN, *SHORT, "--rounds", "40", "--quiet"], cwd=here)
    path = here / "results" / "run.h5"
    while not path.exists():
        time.sleep(0.01)
    with h5py.File(path):
        assert process.wait(timeout=60) == 0
    with h5py.File(path) as log:
        np.testing.assert_array_equal(log["round"][:], np.arange(1, 41))
        assert log.attrs["status"] == "complete"


def test_the_main_job_on_24_ranks(here):
    """The default experiment: it must learn, and the OOD node's knowledge must reach everyone."""
    finished = launch(24, *RUN, cwd=here, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert len(re.findall(r"^round +\d+/20 ", finished.stdout, re.MULTILINE)) == 20
    assert re.search(r"24 ranks on 1 host, with 1 node and [\d–]+ threads? each", finished.stdout)
    with h5py.File(here / "results" / "run.h5") as log:
        assert log.attrs["status"] == "complete"
        assert log["iid_accuracy"].shape == (20, 24)
        assert log["iid_accuracy"][-1].mean() > 0.8
        assert log["ood_accuracy"][-1].min() > 0.5
        assert log["ood_accuracy"][0].mean() < 0.5
        assert log["train_seconds"].shape == (20, 24)
        assert (log["train_seconds"][:] > 0).all()
        degree, sent = log["degree"][:], log["bytes_sent"][0]
        np.testing.assert_array_equal(sent, degree * 17_226 * 4)  # one node per rank: a message for each neighbor
