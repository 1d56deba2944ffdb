"""How far a sweep's runs are, from logs, locks and messages on disk; the time left; and what --status says of it."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpisim.errors import InputError
from mpisim.storage.checkpoint import checkpoint_folder, commit, write_shard
from mpisim.storage.lock import locked
from mpisim.sweep.__main__ import main
from mpisim.sweep.expansion import expand
from mpisim.sweep.file import read_sweep
from mpisim.sweep.state import (
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    SHORT,
    TO_DO,
    State,
    failure,
    forget_failure,
    keep_failure,
    look,
)
from mpisim.sweep.time_left import seconds_left

FILE = """
[base]
rounds = 4
topology = "ring:n=3"
[grid]
strategy = ["degree", "fl"]
dataset = ["digits", "mnist"]
seed = [0, 1]
"""
FOLDER = Path("results/s")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(FILE)
    return expand(read_sweep(Path("s.toml")))


@pytest.fixture
def write(log_content):
    """Return a function that writes the log of a run; each round took rank 0 a number of seconds."""

    def log_of(run, num_rounds, status, seconds=1.0, **options):
        config = json.dumps(run.config.as_dict() | options)
        log_content.attributes = log_content.attributes | {"config": config}
        parts = np.array([[0.5, 0.2, 0.1, 0.1, 0.1], [7, 7, 7, 7, 7]]).T * seconds
        names = [f"{part}_seconds" for part in ("train", "test", "exchange", "mix", "log")]
        content = log_content.round(**dict(zip(names, parts, strict=True)))
        return log_content.write(run.log(FOLDER), [content] * num_rounds, status)

    return log_of


@pytest.fixture
def checkpoint_of(runs):
    """Return a function that writes a checkpoint of a run."""

    def write_checkpoint(run, round):
        folder = checkpoint_folder(run.log(FOLDER))
        shard = write_shard(folder, round, 0, {"nodes": np.arange(3), "x": np.zeros((3, 2))})
        commit(folder, round, [shard], run.config.as_dict(), 3)
        return folder

    return write_checkpoint


# One run.


def test_a_run_without_a_trace_is_to_do(runs):
    assert look(runs[0], FOLDER) == State(TO_DO)


@pytest.mark.parametrize(
    "num_rounds, status, kind",
    [
        (4, "complete", DONE),
        (3, "complete", SHORT),  # of a sweep that wanted fewer rounds
        (4, "running", INTERRUPTED),  # killed before it could say that it is complete
        (2, "interrupted", INTERRUPTED),
        (2, "running", INTERRUPTED),
        (0, "running", INTERRUPTED),
    ],
)
def test_a_log_that_nobody_writes(runs, write, num_rounds, status, kind):
    write(runs[0], num_rounds, status, seconds=2.0)
    found = look(runs[0], FOLDER)
    assert (found.kind, found.num_rounds, found.words) == (kind, num_rounds, "")
    assert found.seconds == pytest.approx(2.0 * num_rounds)  # rank 0's


def test_a_log_of_fewer_rounds_goes_on_where_its_checkpoint_is(runs, write, checkpoint_of):
    write(runs[0], 3, "complete")
    checkpoint_of(runs[0], 3)
    assert (look(runs[0], FOLDER).kind, look(runs[0], FOLDER).num_rounds) == (INTERRUPTED, 3)
    (runs[0].log(FOLDER).with_suffix(".ckpt") / "round-000003/manifest.json").unlink()  # it is not whole then
    assert look(runs[0], FOLDER).kind == SHORT


@pytest.mark.parametrize("rounds", [None, 0, 2, 4])
@pytest.mark.parametrize("failed_before", [False, True])
def test_a_log_that_somebody_writes(runs, write, rounds, failed_before):
    run = runs[0]
    if rounds is not None:
        write(run, rounds, "complete" if rounds == 4 else "running")
    if failed_before:
        keep_failure(run, FOLDER, "exit code 1: once\n")
    with locked(run.log(FOLDER)):
        found = look(run, FOLDER)
        assert (found.kind, found.num_rounds) == (RUNNING, rounds or 0)
    assert look(run, FOLDER).kind != RUNNING


def test_a_lock_that_nobody_holds_is_no_sign_of_life(runs, write):
    log = write(runs[0], 2, "running")
    log.with_name(f".{log.name}.lock").touch()
    assert look(runs[0], FOLDER).kind == INTERRUPTED


def test_looking_at_a_lock_neither_keeps_nor_makes_it(runs):
    log = runs[0].log(FOLDER)
    look(runs[0], FOLDER)
    assert not FOLDER.exists()
    with locked(log):
        look(runs[0], FOLDER)
    with locked(log):  # which refuses if it is held
        pass
    assert list(FOLDER.iterdir()) == []


def test_a_failure_is_kept_until_it_is_forgotten(runs, write):
    run = runs[0]
    keep_failure(run, FOLDER, "exit code 1: no é\n\nall of it\n")
    assert look(run, FOLDER) == State(FAILED, words="exit code 1: no é\n\nall of it\n")
    write(run, 2, "running")
    assert (look(run, FOLDER).kind, look(run, FOLDER).num_rounds) == (FAILED, 2)
    assert {path.name for path in FOLDER.iterdir()} == {f"{run.name}.h5", f"{run.name}.failed"}
    forget_failure(run, FOLDER)
    assert failure(run, FOLDER) == ""
    assert look(run, FOLDER).kind == INTERRUPTED


def test_a_run_that_is_done_has_not_failed(runs, write):
    keep_failure(runs[0], FOLDER, "once\n")
    write(runs[0], 4, "complete")
    assert look(runs[0], FOLDER).kind == DONE


@pytest.mark.parametrize("content", [b"", b"no log\n", "half", "other"])
def test_a_file_that_is_no_log_is_a_failure_that_says_so(runs, write, content):
    log = write(runs[0], 2, "running")
    if content == "half":
        log.write_bytes(log.read_bytes()[:5000])
    elif content == "other":
        with h5py.File(log, "w") as file:
            file["x"] = 3
    else:
        log.write_bytes(content)
    found = look(runs[0], FOLDER)
    assert found.kind == FAILED
    assert found.words.startswith(f"results/s/{runs[0].name}.h5 cannot be read as a log: move it away (")
    assert "\n" not in found.words


def test_a_log_of_another_experiment_is_told(runs, write):
    write(runs[0], 4, "complete", lr=0.25, temperature=0.5, data_dir="elsewhere")
    with pytest.raises(InputError) as error:
        look(runs[0], FOLDER)
    assert str(error.value) == (
        "run digits_degree_seed0: results/s/digits_degree_seed0.h5 is there, of another experiment"
        " (--temperature 0.5 → 0.1, --lr 0.25 → 0.1): move it away, or take another --output-dir"
    )


def test_a_log_that_is_older_than_an_option_has_its_default(runs, write):
    log = write(runs[0], 4, "complete")
    with h5py.File(log, "a") as file:
        options = json.loads(file.attrs["config"])
        del options["wire"], options["link_dropout"]
        file.attrs["config"] = json.dumps(options)
    assert look(runs[0], FOLDER).kind == DONE
    Path("s.toml").write_text(FILE.replace("[grid]", 'wire = "bfloat16"\n[grid]'))
    with pytest.raises(InputError, match=r"of another experiment \(--wire float32 → bfloat16\)"):
        look(expand(read_sweep(Path("s.toml")))[0], FOLDER)


def test_a_log_with_more_rounds_is_of_another_experiment(runs, write):
    write(runs[0], 5, "complete", rounds=5)
    with pytest.raises(InputError, match=r"of another experiment \(--rounds 5 → 4\)"):
        look(runs[0], FOLDER)


# The time left.


def test_time_left_is_of_the_runs_that_are_most_alike(runs):
    of_kind = {
        ("degree", "digits"): State(DONE, 4, 8.0),  # 2 s a round
        ("fl", "digits"): State(INTERRUPTED, 1, 5.0),  # 5 s a round
        ("degree", "mnist"): State(RUNNING, 2, 40.0),  # 20 s a round
    }
    states = [
        of_kind.get((run.config.strategy, run.config.dataset), State(TO_DO)) if run.config.seed == 0 else State(TO_DO)
        for run in runs
    ]
    # degree digits: 4 rounds of seed 1. fl digits: 3 and 4 rounds. degree mnist: 2 and 4 rounds. fl mnist has none of
    # its own, but degree on the same data and graph: 8 rounds like that.
    wanted = 4 * 2 + (3 + 4) * 5 + (2 + 4) * 20 + 8 * 20
    assert seconds_left(runs, states, 1) == pytest.approx(wanted)
    assert seconds_left(runs, states, 4) == pytest.approx(wanted / 4)


def test_time_left_of_data_of_which_nothing_is_known_is_that_of_any(runs):
    states = [State(DONE, 4, 8.0) if run.name == "digits_degree_seed0" else State(TO_DO) for run in runs]
    assert seconds_left(runs, states, 1) == pytest.approx(7 * 4 * 2.0)


def test_time_left_is_not_known_before_a_round(runs):
    assert seconds_left(runs, [State(TO_DO)] * 8, 1) is None
    assert seconds_left(runs, [State(RUNNING, 0, 0.0)] * 8, 1) is None


def test_another_seed_is_a_graph_of_the_same_size(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('[base]\nrounds = 1\n[grid]\ntopology = ["ba:n=9,m=2,seed={seed}", "ring:n=3"]\nseed = [0, 1]\n')
    runs = expand(read_sweep(path))  # ba 0, ba 1, ring 0, ring 1
    states = [State(DONE, 1, 9.0), State(TO_DO), State(DONE, 1, 2.0), State(TO_DO)]
    assert seconds_left(runs, states, 1) == pytest.approx(9.0 + 2.0)


# --status.


def test_status_counts_and_names(runs, write, capsys):
    write(runs[0], 4, "complete", seconds=10.0)
    write(runs[1], 1, "interrupted", seconds=10.0)
    write(runs[2], 3, "running", seconds=10.0)
    keep_failure(runs[3], FOLDER, "exit code 2: no data\n\nmore\n")
    with locked(runs[2].log(FOLDER)):
        assert main(["s.toml", "--status", "--jobs", "2"]) == 0
    # 3 + 1 + 4 + 4 · 4 rounds of 10 s, on two cores
    assert capsys.readouterr().out == (
        "8 runs in results/s\n"
        "done             1\n"
        "running          1\n"
        "    2  mnist_degree_seed0: 3 of 4 rounds\n"
        "interrupted      1\n"
        "    1  digits_degree_seed1: 1 of 4 rounds\n"
        "failed           1\n"
        "    3  mnist_degree_seed1: exit code 2: no data\n"
        "to do            4\n"
        "time left    2 min 00 s of rounds, 2 runs at a time\n"
    )


def test_status_before_and_after_all(runs, write, capsys):
    assert main(["s.toml", "--status", "--output-dir", "results/s"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "to do            8",
        "time left    not known before a first round",
    ]
    for run in runs:
        write(run, 4, "complete")
    assert main(["s.toml", "--status"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "done             8",
        "running          0",
        "interrupted      0",
        "failed           0",
        "to do            0",
    ]


def test_status_names_a_few_of_many(runs, capsys, tmp_path):
    Path("many.toml").write_text(f"[grid]\nseed = {list(range(30))}\n")
    for run in expand(read_sweep(Path("many.toml"))):
        keep_failure(run, FOLDER, "exit code 1: x\n")
    assert main(["many.toml", "--status", "--output-dir", str(FOLDER)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("exit code 1: x\n") == 20
    assert "    and 10 more\n" in printed


@pytest.mark.parametrize("what", ["--status", "--run"])
def test_logs_of_another_experiment_are_wrong_input(runs, write, capsys, what):
    log = write(runs[5], 2, "complete", epochs=99)
    before = log.read_bytes()
    assert main(["s.toml", what]) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith(f"mpisim: run {runs[5].name}: {log} is there, of another experiment (--epochs 99 → 5): ")
    assert errors.count("\n") == 1
    assert [path.name for path in FOLDER.iterdir()] == [log.name]
    assert log.read_bytes() == before


# Runs that are done.


def too_short(run):
    return (
        f"{run.name} has 2 rounds of 4, and its checkpoints are gone (--keep-checkpoints keeps them):"
        " move its log away to play it anew"
    )


@pytest.mark.parametrize("others", ["done", "to do"])
def test_rounds_that_are_done_are_not_played_anew_where_more_are_wanted(runs, write, capsys, others):
    short, *more = runs
    log = write(short, 2, "complete", rounds=2)
    if others == "done":
        for run in more:
            write(run, 4, "complete")
    before = log.read_bytes()
    assert main(["s.toml", "--run", "--launcher", "false"]) == 1
    printed, errors = capsys.readouterr()
    failures = 0 if others == "done" else 7
    assert errors.count("\n") == failures + 1
    assert errors.endswith(f"mpisim: run {too_short(short)}\n")
    assert printed.splitlines()[-1].endswith("; 1 too short")
    assert short.name not in printed
    assert log.read_bytes() == before
    assert main(["s.toml", "--status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("too short        1")
    assert lines[at + 1] == f"    0  {too_short(short).replace(f'{short.name} has', f'{short.name}:')}"
    if others == "done":
        assert lines[-1] == "to do            0"  # no time is left


@pytest.mark.parametrize("options, kept", [([], False), (["--keep-checkpoints"], True)])
def test_checkpoints_of_a_run_that_was_done_after_its_sweep_had_died_are_removed(
    runs, write, checkpoint_of, options, kept
):
    for run in runs:
        write(run, 4, "complete")
    folder = checkpoint_of(runs[3], 4)
    assert main(["s.toml", "--run", "--launcher", "false", *options]) == 0
    assert folder.exists() == kept
