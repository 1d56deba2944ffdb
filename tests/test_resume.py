"""A run that ended early goes on: from the newest checkpoint that is whole, to the bits of a run that never ended."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from chaos import chaos, descendants, kill, ranks_among, results_of
from mpi4py import MPI
from suite_device import assert_same_results
from torch import nn

from mpisim.arguments import parse_config
from mpisim.data.labeled import Labeled
from mpisim.dealing import load
from mpisim.errors import InputError, WriteError
from mpisim.models.catalog import MODELS, Model
from mpisim.ranks.startup import process_age
from mpisim.run import main
from mpisim.simulation import Simulation
from mpisim.storage.checkpoint import checkpoint_folder, checkpoints
from mpisim.storage.lock import locked
from mpisim.storage.log import Log

COMMON = [
    *("--topology", "ring:n=4", "--rounds", "8", "--epochs", "1", "--checkpoint-every", "2", "--threads", "1"),
    *("--train-samples", "100", "--test-samples", "60", "--output", "run.h5"),
]
KEPT = ["--optimizer", "adam", "--lr", "0.01", "--keep-optimizer-state"]
DRAWN = ["--shuffle", "--participation", "0.6", "--link-dropout", "0.2", "--strategy", "random"]
NORM = ["--model", "norm", *KEPT, *DRAWN]
PATIENCE = 60.0


class Killed(BaseException):
    """What ends a run in this process as a kill would: nothing after it is logged or checkpointed."""


@pytest.fixture(autouse=True)
def exceptions_come_here(monkeypatch):
    """In this process a run that fails must not take the tests with it."""

    def reraise(comm):
        raise

    monkeypatch.setattr("mpisim.ranks.startup.abort", reraise)


@pytest.fixture(autouse=True)
def norm_is_a_model(monkeypatch):
    """A model whose tests depend on statistics of the batches that came before, which it counts."""

    def make(shape, num_classes):
        return nn.Sequential(
            nn.Conv2d(shape[0], 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(4 * 4 * 4, num_classes),
        )

    monkeypatch.setitem(MODELS, "norm", Model(make, lambda shape: shape == (1, 8, 8), "digits"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the results, and the last checkpoint's arrays, of a run of these options that was never interrupted."""

    @cache
    def run(*options):
        path = tmp_path_factory.mktemp("undisturbed") / "run.h5"
        assert main([*COMMON, "--quiet", *options, "--output", str(path)]) == 0
        return outcome(path)

    return run


def outcome(path):
    newest = checkpoints(checkpoint_folder(path))[0]
    state = newest.read(np.arange(newest.num_nodes))
    return results_of(path), state


def check_same(path, expected):
    (results, state), (expected_results, expected_state) = outcome(path), expected
    assert results["status"] == "complete"
    assert_same_results(results, expected_results)
    assert_same_results(state, expected_state)


def die_in(round, *options, monkeypatch, arguments=COMMON, path="run.h5"):
    """Play a run that dies when its log is about to get this round."""

    def append(self, number, values):
        if number == round:
            raise Killed
        return original(self, number, values)

    original = Log.append
    with monkeypatch.context() as patch:
        patch.setattr(Log, "append", append)
        with pytest.raises(Killed):
            main([*arguments, "--quiet", *options])
    with h5py.File(path) as log:
        assert log["round"][:].tolist() == list(range(1, round))


def rounds_kept(path=Path("run.h5")):
    return sorted(int(folder.name.removeprefix("round-")) for folder in checkpoint_folder(path).iterdir())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
        path: b"" for path in folder.rglob("*") if path.is_dir()
    }


def resume(*options):
    return main([*COMMON, "--resume", *options])


# Where a run goes on.


@pytest.mark.parametrize("death, first", [(1, 0), (2, 0), (3, 2), (6, 4), (7, 6), (8, 6)])
@pytest.mark.parametrize("options", [[], [*KEPT, *DRAWN]], ids=["plain", "drawn"])
def test_a_run_goes_on_from_its_newest_checkpoint(here, monkeypatch, capsys, undisturbed, options, death, first):
    die_in(death, *options, monkeypatch=monkeypatch)
    assert resume(*options) == 0
    printed, errors = capsys.readouterr()
    where = rf"after round {first}$" if first else "from the beginning: there is no checkpoint$"
    assert re.search(rf"^resumed +{where}", printed, re.MULTILINE)
    assert [int(round) for round in re.findall(r"^round +(\d+)/8", printed, re.MULTILINE)] == [*range(first + 1, 9)]
    assert errors == ""
    check_same(Path("run.h5"), undisturbed(*options))


@pytest.mark.parametrize("options", [[*NORM, "--engine", engine] for engine in ("auto", "sequential", "batched")])
def test_optimizer_state_and_statistics_of_batches_survive(here, monkeypatch, undisturbed, options):
    die_in(6, *options, monkeypatch=monkeypatch)
    assert resume("--quiet", *options) == 0
    check_same(Path("run.h5"), undisturbed(*options))
    [newest, _] = checkpoints(checkpoint_folder(Path("run.h5")))
    state = newest.read(np.arange(4))
    with h5py.File("run.h5") as log:  # in each round that a node takes part in, a step for every 16 of its samples
        steps = log["participated"][:].sum(axis=0) * -(-log["train_samples"][:] // 16)
    assert len(set(steps)) > 1
    np.testing.assert_array_equal(state["counter.0"], steps)
    np.testing.assert_array_equal(state["optimizer.num_steps"], steps)


def test_a_run_killed_again_and_again_goes_on_each_time(here, monkeypatch, undisturbed):
    die_in(4, monkeypatch=monkeypatch)
    for death in (4, 5, 7, 8):
        die_in(death, "--resume", monkeypatch=monkeypatch)
    assert resume("--quiet") == 0
    check_same(Path("run.h5"), undisturbed())


def test_resume_without_a_log_begins_one(here, capsys, undisturbed):
    assert resume() == 0
    assert "resumed" not in capsys.readouterr().out
    check_same(Path("run.h5"), undisturbed())


@pytest.mark.parametrize("output", [True, False], ids=["--output", "the run's name"])
def test_resume_without_the_log_of_the_checkpoints_is_refused_until_it_is_back(
    here, monkeypatch, capsys, undisturbed, output
):
    arguments = COMMON if output else [option for option in COMMON if option not in ("--output", "run.h5")]
    path = Path("run.h5" if output else "results/run.h5")
    die_in(6, monkeypatch=monkeypatch, arguments=arguments, path=path)
    path.rename("elsewhere.h5")
    before = contents(here)
    assert main([*arguments, "--quiet", "--resume"]) == 2
    assert capsys.readouterr().err == (
        f"mpisim: {path}: is not there, but its checkpoints in {checkpoint_folder(path)} are: put it back to go on with"
        f" --resume, or begin anew with --output {path} --overwrite\n"
    )
    assert contents(here) == before
    Path("elsewhere.h5").rename(path)
    assert main([*arguments, "--resume"]) == 0
    assert "resumed       after round 4" in capsys.readouterr().out
    check_same(path, undisturbed())


def test_a_new_run_does_not_take_checkpoints_away_whose_log_is_elsewhere(here, monkeypatch, capsys):
    named = [option for option in COMMON if option not in ("--output", "run.h5")]
    die_in(6, monkeypatch=monkeypatch, arguments=named, path="results/run.h5")
    Path("results/run.h5").rename("elsewhere.h5")
    before = contents(here)
    assert main([*named, "--quiet", "--output", "results/run.h5"]) == 2
    assert "results/run.h5: is not there, but its checkpoints" in capsys.readouterr().err
    assert contents(here) == before
    assert main([*named, "--quiet"]) == 0
    assert Path("results/run-2.h5").exists()
    assert contents(here).items() >= before.items()
    assert main([*named, "--quiet", "--output", "results/run.h5", "--overwrite", "--rounds", "1"]) == 0
    assert rounds_kept(Path("results/run.h5")) == [1]


def test_resume_without_output_goes_on_with_the_last_log_of_the_name(here, monkeypatch, undisturbed):
    named = [option for option in COMMON if option not in ("--output", "run.h5")]
    assert main([*named, "--quiet", "--seed", "5"]) == 0
    first = contents(here)
    die_in(6, monkeypatch=monkeypatch, arguments=named, path="results/run-2.h5")
    assert main([*named, "--quiet", "--resume"]) == 0
    check_same(here / "results" / "run-2.h5", undisturbed())
    assert contents(here).items() >= first.items()


def test_a_complete_run_stays_as_it_is(here, capsys, undisturbed):
    assert main([*COMMON, "--quiet"]) == 0
    assert resume() == 0
    printed = capsys.readouterr().out
    assert re.search(r"^resumed +after round 8$", printed, re.MULTILINE)
    assert not re.search(r"^round ", printed, re.MULTILINE)
    check_same(Path("run.h5"), undisturbed())


@pytest.mark.parametrize("before", [3, 4, 7])
def test_more_rounds_make_a_run_of_that_length(here, undisturbed, before):
    assert main([*COMMON, "--quiet", *KEPT, "--rounds", str(before)]) == 0
    assert resume("--quiet", *KEPT) == 0
    check_same(Path("run.h5"), undisturbed(*KEPT))


def test_fewer_rounds_than_are_played_are_refused(here, capsys):
    assert main([*COMMON, "--quiet"]) == 0
    before = contents(here)
    assert resume("--rounds", "7") == 2
    assert capsys.readouterr().err == "mpisim: --rounds 7: run.h5 has 8 already\n"
    assert contents(here) == before


def test_the_newest_two_checkpoints_are_kept(here, monkeypatch):
    for death, kept in ((3, [2]), (5, [2, 4]), (6, [2, 4]), (7, [4, 6])):
        die_in(death, "--resume", monkeypatch=monkeypatch)
        assert rounds_kept() == kept
    assert resume("--quiet") == 0
    assert rounds_kept() == [6, 8]


@pytest.mark.parametrize("left, kept", [(40, [7, 8]), (100_000, [8])], ids=["near", "far"])
def test_near_its_walltime_alone_a_run_has_a_checkpoint_of_each_round(here, left, kept):
    """The newest two stay, and the last round always has one."""
    walltime = str(process_age() + left)
    assert main([*COMMON, "--quiet", "--checkpoint-every", "0", "--walltime", walltime]) == 0
    assert rounds_kept() == kept


def test_overwrite_removes_the_checkpoints_of_the_run_before(here, monkeypatch):
    die_in(7, monkeypatch=monkeypatch)
    die_in(2, "--overwrite", "--seed", "3", monkeypatch=monkeypatch)
    assert not checkpoint_folder(Path("run.h5")).exists()


# Checkpoints that are of no use.


def newest_file(pattern):
    [path] = Path("run.ckpt/round-000006").glob(pattern)
    return path


def flip_bit():
    path = newest_file("rank-*")
    data = bytearray(path.read_bytes())
    data[2 * len(data) // 3] ^= 1
    path.write_bytes(data)
    return path


def truncate():
    path = newest_file("rank-*")
    os.truncate(path, path.stat().st_size - 1)
    return path


def lose_shard():
    path = newest_file("rank-*")
    path.unlink()
    return path


def halve_manifest():
    path = newest_file("manifest.json")
    os.truncate(path, path.stat().st_size // 2)
    return path


def change_manifest():
    path = newest_file("manifest.json")
    text = path.read_text()
    path.write_text(text.replace('"round": 6', '"round": 6.0'))
    assert path.read_text() != text
    return path


def lose_manifest():
    path = newest_file("manifest.json")
    path.unlink()
    return path.parent


def exchange_for_foreign():
    """Put the checkpoint of another experiment in its place."""
    assert main([*COMMON, "--quiet", "--seed", "9", "--rounds", "6", "--output", "foreign.h5"]) == 0
    shutil.rmtree("run.ckpt/round-000006")
    shutil.copytree("foreign.ckpt/round-000006", "run.ckpt/round-000006")
    return Path("run.ckpt/round-000006")


DAMAGES = [flip_bit, truncate, lose_shard, halve_manifest, change_manifest, lose_manifest, exchange_for_foreign]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_the_older_one_taken(here, monkeypatch, capsys, undisturbed, damage):
    die_in(8, monkeypatch=monkeypatch)
    damaged = damage()
    capsys.readouterr()
    assert resume() == 0
    printed, errors = capsys.readouterr()
    assert re.fullmatch(rf"mpisim: passing over a checkpoint: \S*{re.escape(str(damaged))}: .+\n", errors)
    assert re.search(r"^resumed +after round 4$", printed, re.MULTILINE)
    check_same(Path("run.h5"), undisturbed())
    assert rounds_kept() == [6, 8]


def damage_all():
    truncate()
    Path("run.ckpt/round-000004/manifest.json").write_bytes(b"\x00" * 100)


def remove_all():
    shutil.rmtree("run.ckpt")


def refusal(rounds):
    return (
        f"mpisim: --resume: run.h5 has {rounds} rounds, but no whole checkpoint is in run.ckpt: put one back, or begin"
        " anew with --output run.h5 --overwrite\n"
    )


@pytest.mark.parametrize("lose, passed_over", [(damage_all, 2), (remove_all, 0)])
def test_without_a_valid_checkpoint_no_finished_round_is_lost(here, monkeypatch, capsys, lose, passed_over):
    die_in(8, monkeypatch=monkeypatch)
    lose()
    before = contents(here)
    capsys.readouterr()
    assert resume("--quiet") == 2
    *passed, refused = capsys.readouterr().err.splitlines(keepends=True)
    assert refused == refusal(7)
    assert len(passed) == passed_over
    assert all(line.startswith("mpisim: passing over a checkpoint: ") for line in passed)
    assert contents(here) == before


def test_ranks_without_nodes_hear_of_the_refusal_too(job, monkeypatch, capsys):
    two_nodes = ["--topology", "path:n=2"]
    die_in(4, *two_nodes, monkeypatch=monkeypatch)
    remove_all()
    process = job(3, "--quiet", "--resume", *two_nodes)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (2, refusal(3))


def test_a_damaged_first_checkpoint_is_no_excuse_to_begin_anew(here, monkeypatch, capsys):
    """Two rounds alone could be of a run that was killed before its first checkpoint; here there was one."""
    die_in(3, monkeypatch=monkeypatch)
    with h5py.File("run.h5") as log:
        assert log.attrs["checkpoint_round"] == 0  # it was killed before it said so
    os.truncate("run.ckpt/round-000002/rank-00000.safetensors", 100)
    before = contents(here)
    assert resume("--quiet") == 2
    assert capsys.readouterr().err.endswith(refusal(2))
    assert contents(here) == before


@pytest.mark.parametrize("every", ["0", "6"])
def test_a_run_that_stopped_at_its_only_checkpoint_does_not_begin_anew_without_it(here, monkeypatch, capsys, every):
    with monkeypatch.context() as patch:
        patch.setattr("mpisim.keeping.Keeping.wants_to_stop", lambda _: True)
        assert main([*COMMON, "--quiet", "--checkpoint-every", every]) == 3
    remove_all()
    before = contents(here)
    assert resume("--quiet") == 2
    assert capsys.readouterr().err == refusal(1)
    assert contents(here) == before


def test_a_run_that_goes_on_with_fewer_checkpoints_does_not_begin_anew_without_them(here, monkeypatch, capsys):
    die_in(4, monkeypatch=monkeypatch)
    die_in(7, "--resume", "--checkpoint-every", "0", monkeypatch=monkeypatch)
    remove_all()
    before = contents(here)
    assert resume("--quiet") == 2
    assert capsys.readouterr().err == refusal(6)
    assert contents(here) == before


def test_a_run_of_an_older_log_does_not_begin_anew(here, monkeypatch, capsys):
    """It does not say whether there was a checkpoint."""
    die_in(3, "--checkpoint-every", "0", monkeypatch=monkeypatch)
    with h5py.File("run.h5", "r+") as log:
        del log.attrs["checkpoint_round"]
    assert resume("--quiet") == 2
    assert capsys.readouterr().err.startswith("mpisim: --resume: run.h5 has 2 rounds, but no whole checkpoint is in")


@pytest.mark.parametrize("every, death", [("6", 6), ("0", 8)])
def test_a_run_killed_before_a_checkpoint_was_due_begins_anew(here, monkeypatch, capsys, undisturbed, every, death):
    die_in(death, "--checkpoint-every", every, monkeypatch=monkeypatch)
    assert resume() == 0
    assert "resumed       from the beginning: there is no checkpoint" in capsys.readouterr().out
    check_same(Path("run.h5"), undisturbed())


def test_a_complete_run_without_checkpoints_stays_as_it_is_unless_more_is_wanted(here, capsys):
    assert main([*COMMON, "--quiet"]) == 0
    remove_all()
    before = contents(here)
    assert resume() == 0
    assert "resumed       run.h5 is complete: nothing is left to do" in capsys.readouterr().out
    assert contents(here) == before
    assert resume("--quiet", "--rounds", "9") == 2
    assert capsys.readouterr().err == refusal(8)
    assert contents(here) == before


# Logs that are damaged, and files that have changed.


def delete_loss(log):
    del log["iid_loss"]


def shorten_loss(log):
    log["iid_loss"].resize(2, axis=0)


def renumber(log):
    log["round"][1] = 7


def forget_the_past(log):
    del log.attrs["history"]


def replaced(name):
    """Return a way to put a variable of a fixed size in place of one that grows."""

    def replace(log):
        values = log[name][()]
        del log[name]
        log[name] = values

    replace.__name__ = f"fix {name}"
    return replace


def narrow_ranks(log):
    values = log["rank_of_node"][()].astype("f4")
    del log["rank_of_node"]
    log["rank_of_node"] = values


DAMAGES_OF_LOGS = {
    delete_loss: "the variable iid_loss is missing",
    shorten_loss: r"the variable iid_loss is float64 of shape \(2, 4\), not float64 of \(4, 4\)",
    narrow_ranks: r"the variable rank_of_node is float32 of shape \(4,\), not int64 of \(4,\)",
    replaced("train_loss"): "the variable train_loss cannot grow",
    replaced("round"): "the dimension round cannot grow",
    replaced("rank"): "the dimension rank cannot grow",
    renumber: "its rounds are not 1, 2, 3 …",
    forget_the_past: "the attribute history is missing",
}


@pytest.mark.parametrize("damage, words", DAMAGES_OF_LOGS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_damaged_log_is_refused_before_anything_is_taken_back(here, monkeypatch, capsys, damage, words):
    die_in(5, monkeypatch=monkeypatch)
    with h5py.File("run.h5", "r+") as log:
        damage(log)
    before = contents(here)
    assert resume("--quiet") == 2
    assert re.fullmatch(rf"mpisim: run\.h5: {words}: damaged, .* cannot be resumed\n", capsys.readouterr().err)
    assert contents(here) == before


def test_a_log_of_another_schema_version_is_refused_before_anything_is_taken_back(here, monkeypatch, capsys):
    die_in(5, monkeypatch=monkeypatch)
    with h5py.File("run.h5", "r+") as log:
        log.attrs["schema_version"] = 2
    before = contents(here)
    assert resume("--quiet") == 2
    assert capsys.readouterr().err == (
        "mpisim: run.h5: is of schema version 2, and this mpisim writes 1: go on with the one that began it\n"
    )
    assert contents(here) == before


OPEN_TO_WRITE = """
import sys
import h5py
with h5py.File("run.h5", "r+"):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_log_that_another_program_has_open_to_write_is_said_to_be_one(here, monkeypatch, capsys, option):
    die_in(5, monkeypatch=monkeypatch)
    with subprocess.Popen(
        [sys.executable, "-c", OPEN_TO_WRITE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"open\n"
        assert main([*COMMON, "--quiet", option]) == 2
    assert capsys.readouterr().err == "mpisim: run.h5: another program has it open to write: close it there\n"


def test_another_topology_in_the_same_file_is_refused(here, monkeypatch, capsys, undisturbed):
    ring = "0 1\n1 2\n2 3\n3 0\n"
    from_file = ["--topology", "graph.edgelist"]
    Path("graph.edgelist").write_text(ring)
    die_in(5, *from_file, monkeypatch=monkeypatch)
    for other in ("0 1\n1 2\n2 3\n1 3\n", ring.replace("3 0", "3 0 0.5")):
        Path("graph.edgelist").write_text(other)
        before = contents(here)
        assert resume("--quiet", *from_file) == 2
        assert re.fullmatch(
            r"mpisim: run\.h5: --resume goes on with the same experiment .* the topology's edges are others than .*\n",
            capsys.readouterr().err,
        )
        assert contents(here) == before
    Path("graph.edgelist").write_text("# the same, told in another way\n3 2\n0 3\n2 1\n1 0 1.0\n")
    assert resume("--quiet", *from_file) == 0
    check_same(Path("run.h5"), undisturbed())


def test_other_data_are_refused_and_an_older_log_is_taken(here, monkeypatch, capsys, undisturbed):
    die_in(5, monkeypatch=monkeypatch)

    def load_other(config):
        train, test = load(config)
        inputs = train.inputs.copy()
        inputs[-1, 0, 3, 3] ^= 1
        return Labeled(inputs, train.labels), test

    before = contents(here)
    with monkeypatch.context() as patch:
        patch.setattr("mpisim.experiment.load", load_other)
        assert resume("--quiet") == 2
    assert "run.h5: --resume goes on with the same experiment only, and the data's samples are others" in (
        capsys.readouterr().err
    )
    assert contents(here) == before
    with h5py.File("run.h5", "r+") as log:
        for name in ("topology_sha256", "data_sha256"):
            assert re.fullmatch("[0-9a-f]{64}", log.attrs[name])
            del log.attrs[name]
    assert resume("--quiet") == 0
    check_same(Path("run.h5"), undisturbed())


def test_a_file_where_the_checkpoints_go_is_found_before_the_run(here, capsys):
    Path("run.ckpt").touch()
    assert main([*COMMON, "--quiet"]) == 2
    assert capsys.readouterr().err == (
        "mpisim: run.ckpt: the checkpoints go there, but it is not a folder: move it away\n"
    )
    assert contents(here) == {here / "run.ckpt": b""}


def test_a_file_where_a_checkpoint_goes_is_told_in_one_line(here, capsys):
    Path("run.ckpt").mkdir()
    Path("run.ckpt/round-000002").touch()
    with pytest.raises(WriteError, match=r"cannot write run\.ckpt: Not a directory: once that is mended, the same"):
        Simulation(parse_config([*COMMON, "--quiet"]), MPI.COMM_SELF).run()


def test_a_checkpoint_of_a_later_round_than_the_log_has_is_passed_over(here, monkeypatch, capsys, undisturbed):
    """As when the log, and not the checkpoints, is brought back from a copy."""
    die_in(8, monkeypatch=monkeypatch)
    shutil.copy("run.h5", "copy")
    assert resume("--quiet") == 0
    shutil.move("copy", "run.h5")
    assert resume() == 0
    printed, errors = capsys.readouterr()
    assert re.fullmatch(
        r"mpisim: passing over a checkpoint: \S*round-000008: is of a later round than the log's last, 7\n", errors
    )
    assert re.search(r"^resumed +after round 6$", printed, re.MULTILINE)
    check_same(Path("run.h5"), undisturbed())


# Which options may differ.


def test_another_experiment_is_refused_and_every_differing_option_named(here, monkeypatch, capsys):
    die_in(5, monkeypatch=monkeypatch)
    before = contents(here)
    other = "--seed 4 --topology star:n=4 --optimizer adam --lr 0.5 --shuffle --evaluate-at both"
    assert resume(*other.split()) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith("mpisim: ")
    assert errors.count("\n") == 1
    assert "run.h5" in errors
    named = set(re.findall(r"--[a-z-]+", errors)) - {"--resume"}
    assert named == {"--seed", "--topology", "--optimizer", "--lr", "--shuffle", "--evaluate-at"}
    for change in ("--seed 0 → 4", "--topology ring:n=4 → star:n=4"):
        assert change in errors
    assert contents(here) == before


FREE = (
    "--quiet --timeout 77 --walltime 100000 --checkpoint-every 3 --name another --placement mincut --stop-on-nan"
    " --no-download --data-dir elsewhere"
)


def test_options_that_change_no_result_may_differ(here, monkeypatch, undisturbed):
    die_in(7, monkeypatch=monkeypatch)
    assert resume(*FREE.split()) == 0
    check_same(Path("run.h5"), undisturbed())
    with h5py.File("run.h5") as log:
        assert json.loads(log.attrs["config"])["timeout"] == 77


def test_a_file_that_is_no_log_is_not_gone_on_with(here, capsys):
    Path("run.h5").write_text("my thesis\n")
    before = contents(here)
    assert resume() == 2
    assert re.fullmatch(r"mpisim: .*run\.h5: is no log of mpisim.*\n", capsys.readouterr().err)
    assert contents(here) == before


# Two runs at once.

HOLD = """
import sys
from pathlib import Path
from mpisim.storage.lock import locked
with locked(Path("run.h5")):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_that_are_to_make_a_log_do_not_replace_each_other_s(here, capsys):
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        before = contents(here)
        for options in ([], ["--overwrite"]):
            assert main([*COMMON, "--quiet", *options]) == 2
            assert re.fullmatch(r"mpisim: run\.h5: another run is writing it: .*\n", capsys.readouterr().err)
        assert contents(here) == before


def test_a_log_is_where_a_link_leads_to_and_so_are_its_lock_and_checkpoints(here, monkeypatch, capsys, undisturbed):
    scratch = here / "scratch"
    scratch.mkdir()
    Path("run.h5").symlink_to(scratch / "kept.h5")
    die_in(5, monkeypatch=monkeypatch)
    assert Path("run.h5").is_symlink()
    assert rounds_kept(scratch / "kept.h5") == [2, 4]
    with locked(scratch / "kept.h5"):
        hold = f"import sys; from mpisim.run import main; sys.exit(main({[*COMMON, '--quiet', '--resume']!r}))"
        refused = subprocess.run([sys.executable, "-c", hold], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert re.fullmatch(r"mpisim: \S*scratch/kept\.h5: another run is writing it: .*\n", refused.stderr)
    assert resume("--quiet") == 0
    check_same(scratch / "kept.h5", undisturbed())
    assert {path.name for path in here.iterdir()} == {"run.h5", "scratch"}
    assert main([*COMMON, "--quiet", "--overwrite", "--rounds", "2"]) == 0
    assert Path("run.h5").is_symlink()
    assert rounds_kept(scratch / "kept.h5") == [2]


@pytest.mark.parametrize("options", [["--resume"], ["--overwrite"], ["--overwrite", "--seed", "3"]], ids=" ".join)
def test_the_second_of_two_runs_on_one_log_refuses(here, monkeypatch, capsys, undisturbed, options):
    die_in(5, monkeypatch=monkeypatch)
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        before = contents(here)
        assert main([*COMMON, "--quiet", *options]) == 2
        assert re.fullmatch(r"mpisim: \S*run\.h5: another run is writing it: .*\n", capsys.readouterr().err)
        assert contents(here) == before
    assert holder.returncode == 0
    assert resume("--quiet") == 0
    check_same(Path("run.h5"), undisturbed())


def test_a_lock_left_by_a_run_that_was_killed_is_no_hindrance(here, monkeypatch, undisturbed):
    die_in(5, monkeypatch=monkeypatch)
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    assert Path(".run.h5.lock").exists()
    assert resume("--quiet") == 0
    check_same(Path("run.h5"), undisturbed())


def test_a_lock_released_between_a_run_s_look_and_its_grip_is_not_held_twice(here, monkeypatch):
    """The first run ends, and takes the lock's name with it, just when the second has opened the file."""
    first = ExitStack()
    first.enter_context(locked(Path("run.h5")))
    flock = fcntl.flock

    def grip(descriptor, operation):
        first.close()
        flock(descriptor, operation)

    with ExitStack() as second, monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", grip)
        with suppress(InputError):  # to refuse would be right too
            second.enter_context(locked(Path("run.h5")))
            patch.setattr(fcntl, "flock", flock)
            with pytest.raises(InputError, match="another run is writing it"), locked(Path("run.h5")):
                pass


# Signals and walltime, on several ranks.

ENDLESS = ["--rounds", "100000"]


@pytest.fixture
def job(here):
    """Start mpisim by mpiexec, in a session of its own; whatever of it is left at the end, is killed."""
    started = []

    def start(size, *options, program=("-m", "mpisim.run")):
        process = subprocess.Popen(
            ["mpiexec", "-n", str(size), sys.executable, *program, *COMMON, *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            kill([*descendants(process.pid), process.pid])
        process.communicate()


def await_round(process, round):
    for line in process.stdout:
        found = re.match(r"round +(\d+)/", line)
        if found and int(found[1]) >= round:
            return
    pytest.fail(f"ended before round {round}: {process.stderr.read()}")


def check_interrupted(process):
    """Check that a run was stopped well; return the rounds in its log."""
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, printed + errors
    assert "Traceback" not in errors
    assert "stopped at a checkpoint: the same command with --resume goes on" in printed
    with h5py.File("run.h5") as log:
        rounds = log["round"][:].tolist()
        assert log.attrs["status"] == "interrupted"
        assert np.isfinite(log["iid_loss"][:]).all()
    assert rounds == list(range(1, len(rounds) + 1))
    assert rounds_kept()[-1] == len(rounds)
    return len(rounds)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("size", [2, 5], ids="on {0} ranks".format)  # of five, one owns no node
def test_a_signal_to_mpiexec_ends_at_a_checkpoint(job, number, size):
    process = job(size, *ENDLESS)
    await_round(process, 5)
    process.send_signal(number)
    rounds = check_interrupted(process)
    assert rounds >= 5
    more = str(rounds + 3)
    assert main([*COMMON, "--quiet", "--resume", "--rounds", more]) == 0
    assert main([*COMMON, "--quiet", "--rounds", more, "--output", "whole.h5"]) == 0
    check_same(Path("run.h5"), outcome(Path("whole.h5")))


def test_a_signal_to_one_rank_stops_all(job):
    process = job(3, *ENDLESS)
    await_round(process, 3)
    os.kill(ranks_among(descendants(process.pid))[1], signal.SIGTERM)
    assert check_interrupted(process) >= 3


SLOW = """
import sys
import time
from mpisim import run
from mpisim.nodes import Nodes

def train(self, round, *others):
    while True:
        time.sleep(0.01)

Nodes.train = train
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("whom", ["mpiexec", "every rank", "one rank"])
def test_a_second_ctrl_c_ends_a_round_that_does_not(job, whom):
    Path("slow.py").write_text(SLOW)
    process = job(2, *ENDLESS, program=["slow.py"])
    while not Path("run.h5").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # it listens to signals a moment after it has made the log
    ranks = ranks_among(descendants(process.pid))
    pressed = {"mpiexec": [process.pid], "every rank": ranks, "one rank": ranks[1:]}[whom]
    for _ in range(2):
        assert process.poll() is None
        for pid in pressed:
            os.kill(pid, signal.SIGINT)
        time.sleep(1.5)
    process.communicate(timeout=PATIENCE)
    if whom != "mpiexec":  # which may end with 0 when it is told to abort all: the ranks do not decide that
        assert process.returncode not in (0, 3)
    with h5py.File("run.h5") as log:
        assert len(log["round"]) == 0
        assert log.attrs["status"] == "running"


def test_a_run_stops_before_its_walltime(job):
    started = time.monotonic()
    process = job(2, *ENDLESS, "--walltime", "15")
    assert check_interrupted(process) >= 1
    assert time.monotonic() - started < 15
    with h5py.File("run.h5") as log:
        before = len(log["round"])
    process = job(1, "--resume", *ENDLESS, "--walltime", "0.1")  # no round fits
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, printed + errors
    reason = f"round {before + 1} does not fit into --walltime 0.1"
    told = f"mpisim: {reason}: it is abandoned; --resume goes on, with more time"
    assert told in errors.splitlines()
    with h5py.File("run.h5") as log:
        assert (len(log["round"]), log.attrs["status"]) == (before, "interrupted")


# Everything at once.


def test_runs_that_are_killed_at_any_moment_end_with_the_same_bits(here, capsys):
    outcomes = chaos(here, runs=2, seed=20)
    assert all(outcome.is_good for outcome in outcomes), capsys.readouterr().out
    assert sum(len(outcome.deaths) for outcome in outcomes) >= 2
