"""Chaos: runs that are killed at any moment and resumed on other ranks end with the bits of undisturbed ones.

    python -m tests.chaos --runs 50            # about twelve minutes on two cores
    python -m tests.chaos --runs 50 --seed 7   # other moments

Ranks die of SIGKILL, one of them or all, at a moment that is drawn, or at a named step of a round: in the middle of a
write, half of which is then on disk. After each death the log must open and have whole rounds, every checkpoint with a
manifest must be whole, and no more rounds may be lost than lie between two checkpoints.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np

from mpisim.storage.checkpoint import BadCheckpoint, checkpoint_folder, checkpoints

ROUNDS, EVERY = 8, 2
PLAIN = (
    f"--topology ring:n=6 --rounds {ROUNDS} --epochs 1 --checkpoint-every {EVERY} --train-samples 300"
    " --test-samples 100 --threads 1 --engine auto --timeout 60 --device cpu"  # where bits are promised
).split()
RICH = [
    *PLAIN,
    *("--keep-optimizer-state", "--optimizer", "adam", "--lr", "0.01", "--shuffle"),
    *("--participation", "0.6", "--link-dropout", "0.2"),
]
MOST_KILLS = 3
PATIENCE = 120.0  # seconds for a run of a few seconds

# What depends on the clock or on the placement.
NOT_RESULTS = {"rank", "rank_of_node", "bytes_sent", "peak_memory"}

# A run whose rank VICTIM dies at a step of a round, by os._exit: nothing is flushed, released or removed. Each step
# lies within a function of mpisim; a file that is being synced there loses its second half.
DIES = """
import os
import sys

from mpi4py import MPI

from mpisim import run
from mpisim.exchange.consensus import Consensus
from mpisim.nodes import Nodes
from mpisim.storage import checkpoint
from mpisim.storage.log import Log
import mpisim.keeping

step, fatal_round, victim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
now = {"round": 0, "step": ""}
fsync, unlink = os.fsync, checkpoint.Path.unlink


def die_at(name):
    if name == step and now["round"] == fatal_round and MPI.COMM_WORLD.rank == victim:
        os._exit(9)


def within(function, name, round_of):
    def wrapped(*arguments, **named):
        before, now["step"] = now["step"], name
        round = round_of(*arguments)
        if round is not None:
            now["round"] = round
        result = function(*arguments, **named)
        die_at(f"{name} done")
        now["step"] = before
        return result

    return wrapped


def fsync_or_die(descriptor):
    if step == now["step"] and now["round"] == fatal_round and MPI.COMM_WORLD.rank == victim:
        with_size = os.fstat(descriptor).st_size
        os.ftruncate(descriptor, with_size // 2)
        os._exit(9)
    fsync(descriptor)


def unlink_and_die(path, **named):
    unlink(path, **named)
    if now["step"] == "manifest":
        die_at("cleaning")


os.fsync, checkpoint.Path.unlink = fsync_or_die, unlink_and_die
Nodes.train = within(Nodes.train, "train", lambda self, round, *_: round)
Consensus.start = within(Consensus.start, "exchange", lambda *_: None)
Log.append = within(Log.append, "log", lambda self, round, *_: round)
Log.rewind = within(Log.rewind, "rewind", lambda self, round, *_: 0)
Log.create = within(Log.create, "create", lambda *_: 0)
Log.set_status = within(Log.set_status, "status", lambda *_: None)
mpisim.keeping.write_shard = within(mpisim.keeping.write_shard, "shard", lambda folder, round, *_: round)
mpisim.keeping.commit = within(mpisim.keeping.commit, "manifest", lambda folder, round, *_: round)
sys.exit(run.main(sys.argv[4:]))
"""
# Each step, whether only rank 0 gets there, and in which rounds.
ANY, SAVED, LAST, START = range(1, ROUNDS + 1), range(EVERY, ROUNDS + 1, EVERY), range(ROUNDS, ROUNDS + 1), range(1)
STEPS = {
    "train done": (False, ANY),
    "exchange done": (False, ANY),
    "log": (True, ANY),
    "log done": (True, ANY),
    "shard": (False, SAVED),
    "shard done": (False, SAVED),
    "manifest": (True, SAVED),
    "manifest done": (True, SAVED),
    "cleaning": (True, range(3 * EVERY, ROUNDS + 1, EVERY)),  # there must be one to remove
    "status": (True, LAST),
    "create": (True, START),
    "rewind": (True, START),
    "rewind done": (True, START),
}


def results_of(path: Path) -> dict[str, Any]:
    """Return what of a log must be the same bits, whoever made it in how many jobs."""
    with h5py.File(path) as log:
        return {name: log[name][:] for name in log if name not in NOT_RESULTS and not name.endswith("_seconds")} | {
            "status": log.attrs["status"]
        }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the names of the results that differ in any bit."""
    return sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found
        or name not in expected
        or np.asarray(found[name]).shape != np.asarray(expected[name]).shape
        or np.asarray(found[name]).tobytes() != np.asarray(expected[name]).tobytes()
    )


def faults_on_disk(path: Path) -> list[str]:
    """Return what is wrong with the log and the checkpoints of a run that was killed; nothing may be."""
    if not path.exists():
        return []  # killed before it began
    try:
        with h5py.File(path) as log:
            logged = log["round"][:].tolist()
            growing = [name for name in log if log[name].shape and log[name].maxshape[0] is None and name != "rank"]
            lengths = {len(log[name]) for name in growing if name != "peak_memory"}
            scores = {name: log[name][:] for name in ("iid_accuracy", "iid_loss")}
    except (OSError, KeyError) as error:
        return [f"{path.name}: {error}"]
    faults = []
    if logged != list(range(1, len(logged) + 1)) or lengths != {len(logged)}:
        faults.append(f"{path.name}: not whole rounds: {logged}, lengths {lengths}")
    if not all(np.isfinite(values).all() for values in scores.values()) or not (scores["iid_loss"] > 0).all():
        faults.append(f"{path.name}: rounds without results")
    valid = [0]
    for checkpoint in checkpoints(checkpoint_folder(path)):
        try:
            for shard in checkpoint.shards:
                checkpoint.verify(shard)
            valid.append(checkpoint.round)
        except BadCheckpoint as error:
            faults.append(str(error))
    # A checkpoint is written after its round is logged and before the next one is.
    usable = max(round for round in valid if round <= len(logged)) if min(valid) <= len(logged) else 0
    if usable < (len(logged) - 1) // EVERY * EVERY:
        faults.append(f"{path.name}: has {len(logged)} rounds, and the newest usable checkpoint is of round {usable}")
    return faults


@dataclass
class Death:
    """How a job is to be killed: at a step, or at a moment after a round was shown; whom: a rank, or all (None)."""

    victim: int | None
    step: str = ""
    round: int = 0
    delay: float = 0.0

    def __str__(self) -> str:
        whom = "all" if self.victim is None else f"rank {self.victim}"
        where = self.step or f"+{1000 * self.delay:.0f} ms"
        return f"{whom} in round {self.round} {where}" if self.round else f"{whom} at start {where}"


def draw_death(rng: random.Random, num_ranks: int, logged: int | None) -> Death:
    """Draw how the next job dies, of a run with so many rounds in its log; None: there is no log."""
    done = (logged or 0) // EVERY * EVERY
    if rng.random() < 0.5:
        possible = {
            name: rounds
            for name, (_, allowed) in STEPS.items()
            if (rounds := [r for r in allowed if r > done or (r == 0 and (name == "create") == (logged is None))])
        }
        step = rng.choice(sorted(possible))
        victim = 0 if STEPS[step][0] else rng.randrange(num_ranks)
        return Death(victim, step, min(rng.choice(possible[step]) for _ in range(2)))  # early: there is more to come
    victim = rng.choice([None, rng.randrange(num_ranks)])
    if rng.random() < 0.15:
        return Death(victim, delay=rng.uniform(0, 4))
    round = min(rng.randint(min(done + 1, ROUNDS), ROUNDS) for _ in range(2))
    return Death(victim, round=round, delay=rng.uniform(0, 0.1))


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that these did."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(process.name))
    found = list(children.get(pid, []))
    for each in found:  # grows
        found += children.get(each, [])
    return found


def ranks_among(pids: Sequence[int]) -> list[int]:
    """Return those that run Python, in the order of ranks."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            environment = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
            if b"python" in (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[0]:
                rank = [value for value in environment if value.startswith((b"PMI_RANK=", b"OMPI_COMM_WORLD_RANK="))]
                found[pid] = int(rank[0].partition(b"=")[2]) if rank else 0
    return sorted(found, key=found.__getitem__)


def kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def await_end(pids: Sequence[int]) -> None:
    """Wait until none of these processes lives: the next job must not meet them."""
    give_up = time.monotonic() + PATIENCE
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > give_up:
            raise TimeoutError(f"of {pids}, some do not die")
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def job(folder: Path, num_ranks: int, options: Sequence[str], death: Death | None = None) -> int:
    """Run mpisim on some ranks in a folder, and kill it as ``death`` says; return the exit code of mpiexec."""
    (folder / "dies.py").write_text(DIES)
    command = ["mpiexec", "-n", str(num_ranks), sys.executable]
    if death is not None and death.step:
        command += ["dies.py", death.step, str(death.round), str(death.victim)]
    else:
        command += ["-m", "mpisim.run"]
    with (folder / "stderr.txt").open("a") as errors:
        process = subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    family: list[int] = []
    try:
        if death is not None and not death.step:
            while death.round and (line := process.stdout.readline()):
                # The plan's last row is printed before round 1, and what a resumed run says is after its last round.
                found = re.match(r"(?:round|resumed +after round) +(\d+)|log  ", line)
                if found and int(found[1] or 0) >= death.round - 1:
                    break
            time.sleep(death.delay)
            family = descendants(process.pid)
            ranks = ranks_among(family)
            if death.victim is None:
                kill([process.pid, *family])
            elif ranks:
                kill(ranks[death.victim : death.victim + 1])
        else:
            family = descendants(process.pid)
        process.communicate(timeout=PATIENCE)
    finally:
        family += descendants(process.pid)
        if process.poll() is None:
            kill([process.pid, *family])
        process.wait()
        process.stdout.close()
    await_end(family)
    return process.returncode


@dataclass
class Outcome:
    """What became of a run: how it was killed, on how many ranks each of its jobs was, and what was wrong."""

    ranks: list[int] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.differing or self.unreadable or self.failures)


def disturbed(folder: Path, options: Sequence[str], expected: dict[str, Any], rng: random.Random) -> Outcome:
    """Play a run that is killed again and again, and resumed on another number of ranks, until it is complete."""
    outcome, path = Outcome(), folder / "run.h5"
    kills_left, num_ranks = rng.randint(1, MOST_KILLS), rng.randint(1, 3)
    arguments = [*options, "--output", "run.h5", "--resume"]
    while True:
        outcome.ranks.append(num_ranks)
        death = draw_death(rng, num_ranks, num_rounds(path)) if kills_left else None
        code = job(folder, num_ranks, arguments, death)
        outcome.unreadable += faults_on_disk(path)
        if code == 0:
            break
        if death is None or outcome.unreadable:
            outcome.failures.append(f"code {code}: {(folder / 'stderr.txt').read_text()[-2000:]}")
            return outcome
        outcome.deaths.append(f"{death}, {num_rounds(path)} logged")
        kills_left -= 1
        num_ranks = rng.choice([size for size in (1, 2, 3) if size != num_ranks])
    outcome.differing = differences(results_of(path), expected)
    return outcome


def num_rounds(path: Path) -> int | None:
    """Return how many rounds a log has, None if there is none; a log that does not open is told of elsewhere."""
    if not path.exists():
        return None
    with suppress(OSError), h5py.File(path) as log:
        return len(log["round"])
    return 0


def undisturbed(folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Return the results of a run that nobody kills."""
    code = job(folder, 2, [*options, "--output", "undisturbed.h5", "--overwrite"])
    results = results_of(folder / "undisturbed.h5")
    assert code == 0, (folder / "stderr.txt").read_text()
    assert results["status"] == "complete"
    assert results["round"].tolist() == list(range(1, ROUNDS + 1))
    return results


def chaos(folder: Path, runs: int, seed: int) -> list[Outcome]:
    """Play so many runs, every other one of the rich experiment; print a line on each, and one on all."""
    expected = []
    for name, options in (("plain", PLAIN), ("rich", RICH)):
        (folder / name).mkdir()
        expected.append(undisturbed(folder / name, options))
    outcomes = []
    for run in range(runs):
        place = folder / f"run-{run}"
        place.mkdir()
        rng = random.Random(f"{seed} {run}")
        outcome = disturbed(place, (PLAIN, RICH)[run % 2], expected[run % 2], rng)
        wrong = [*outcome.unreadable, *outcome.failures, *(f"{name} differs" for name in outcome.differing)]
        jobs = ", ".join(map(str, outcome.ranks))
        print(
            f"run {run:3d} {('plain', 'rich')[run % 2]:5s} on {jobs} ranks: {'; '.join(outcome.deaths) or 'no kill'}:",
            " | ".join(wrong) or "same bits",
            flush=True,
        )
        outcomes.append(outcome)
    print(
        f"{runs} runs, {sum(len(each.deaths) for each in outcomes)} kills,"
        f" {sum(bool(each.differing) for each in outcomes)} differences,"
        f" {sum(len(each.unreadable) for each in outcomes)} unreadable files,"
        f" {sum(bool(each.failures) for each in outcomes)} failures"
    )
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="chaos-") as folder:
        outcomes = chaos(Path(folder), arguments.runs, arguments.seed)
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
