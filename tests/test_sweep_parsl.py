"""Sweeps by Parsl: what each machine's configuration asks for, and one of this machine that really runs."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import h5py
import pytest

from mpisim.errors import InputError
from mpisim.sweep.__main__ import main
from mpisim.sweep.expansion import expand
from mpisim.sweep.file import read_sweep
from mpisim.sweep.machines import MACHINES, hosts_of, resources
from mpisim.sweep.parsl_executor import perform

HAS_PARSL = importlib.util.find_spec("parsl") is not None
needs_parsl = pytest.mark.skipif(not HAS_PARSL, reason="Parsl is not installed: pip install 'mpisim[sweep]'")
PATIENCE = 240.0  # seconds, for what takes some twenty
SWEEP = [sys.executable, "-m", "mpisim.sweep", "s.toml"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("PBS_NODEFILE", "MPIR_CVAR_ENABLE_GPU"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def allocation(here, monkeypatch):
    """Return a function that makes an allocation of some hosts, each of which PBS names twice."""

    def of(num_hosts):
        Path("nodes").write_text("".join(f"x{number}.site\n" * 2 for number in range(num_hosts)))
        monkeypatch.setenv("PBS_NODEFILE", "nodes")

    return of


# Hosts and ranks.


@pytest.mark.parametrize(
    "machine, ranks, wanted",
    [
        ("aurora", 12, (1, 12, 12)),
        ("aurora", 5, (1, 5, 5)),
        ("aurora", 36, (3, 12, 36)),
        ("polaris", 4, (1, 4, 4)),
        ("polaris", 8, (2, 4, 8)),
        ("local", 7, (1, 7, 7)),
    ],
)
def test_a_run_fills_hosts_evenly(machine, ranks, wanted):
    asked = resources(machine, ranks)
    assert (asked["num_nodes"], asked["ranks_per_node"], asked["num_ranks"]) == wanted


@pytest.mark.parametrize("machine, ranks", [("aurora", 13), ("aurora", 30), ("polaris", 6)])
def test_ranks_that_leave_a_host_half_empty_are_refused(machine, ranks):
    with pytest.raises(InputError, match=rf"--ranks {ranks}: a host of {machine} takes \d+: take a multiple of it"):
        resources(machine, ranks)


@pytest.mark.parametrize(
    "num_hosts, ranks, jobs, taken",
    [(10, 12, None, 10), (10, 12, 3, 3), (10, 36, None, 9), (10, 36, 2, 6), (10, 36, 99, 9), (3, 36, None, 3)],
)
def test_as_many_runs_at_a_time_as_the_allocation_has_hosts_for(allocation, num_hosts, ranks, jobs, taken):
    allocation(num_hosts)
    assert hosts_of("aurora", ranks, jobs) == [f"x{number}.site" for number in range(taken)]


def test_on_a_machine_without_a_queue_each_run_at_a_time_has_this_host(here):
    assert hosts_of("local", 2, None) == ["localhost"]
    assert hosts_of("local", 2, 3) == ["localhost"] * 3


# Configurations. Parsl's own warnings are no concern of ours, so these are made in a process of their own.

DESCRIBE = """
import json, sys
from pathlib import Path
from mpisim.sweep.machines import parsl_config
machine, ranks, jobs = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
config = parsl_config(machine, Path("parsl"), ranks, jobs)
[executor] = config.executors
print(json.dumps({
    "kind": type(executor).__name__,
    "runs": executor.max_workers_per_block,
    "launcher": executor.mpi_launcher,
    "provider": type(executor.provider).__name__,
    "blocks": [executor.provider.init_blocks, executor.provider.max_blocks],
    "init": executor.provider.worker_init,
    "folder": config.run_dir,
    "retries": config.retries,
}))
"""


def describe(machine, ranks, jobs=None):
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE, machine, str(ranks), json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=True,
    )
    described = json.loads(done.stdout)
    exports = dict(line.removeprefix("export ").split("=", 1) for line in described.pop("init").splitlines())
    return described, Path(exports.pop("PBS_NODEFILE")).read_text().split(), exports


@needs_parsl
@pytest.mark.parametrize(
    "machine, ranks, jobs, runs, hosts, exports",
    [
        ("aurora", 24, None, 2, 4, {"HDF5_USE_FILE_LOCKING": "FALSE", "MPIR_CVAR_ENABLE_GPU": "0", "TMPDIR": "/tmp"}),
        ("polaris", 4, 3, 3, 3, {"HDF5_USE_FILE_LOCKING": "FALSE"}),
    ],
)
def test_an_allocation_is_one_block_whose_runs_share_its_hosts(allocation, machine, ranks, jobs, runs, hosts, exports):
    allocation(5)
    described, named, variables = describe(machine, ranks, jobs)
    assert described == {
        "kind": "MPIExecutor",
        "runs": runs,
        "launcher": "mpiexec",
        "provider": "LocalProvider",  # within the allocation nothing is submitted
        "blocks": [1, 1],
        "folder": "parsl",
        "retries": 0,  # the next call of the sweep tries again
    }
    assert named == [f"x{number}.site" for number in range(hosts)]
    assert variables == MACHINES[machine].environment | MACHINES[machine].defaults
    assert variables.items() >= exports.items()


@needs_parsl
def test_a_job_may_have_mpi_ask_whose_memory_a_buffer_is(allocation, monkeypatch):
    allocation(1)
    monkeypatch.setenv("TMPDIR", "/var/tmp/pbs.1.with-a-long-name")  # of which a run is to have another
    monkeypatch.setenv("MPIR_CVAR_ENABLE_GPU", "1")
    _, _, variables = describe("aurora", 12)
    assert (variables["MPIR_CVAR_ENABLE_GPU"], variables["TMPDIR"]) == ("1", "/tmp")


@needs_parsl
def test_the_configuration_of_this_machine_names_it_for_each_run_at_a_time(here):
    described, named, variables = describe("local", 2, 3)
    assert (described["kind"], described["runs"], named, variables) == ("MPIExecutor", 3, ["localhost"] * 3, {})


@needs_parsl
def test_ranks_are_bound_as_the_machine_wants_it(here):
    """Parsl puts its options between its own and the command."""
    from parsl.executors.high_throughput.mpi_prefix_composer import compose_mpiexec_launch_cmd

    _, command = compose_mpiexec_launch_cmd(resources("aurora", 24), ["a", "b"])
    words = command.split()
    assert words[:7] == ["mpiexec", "-n", "24", "-ppn", "12", "-hosts", "a,b"]
    option, cores = words[7:]
    assert option == "--cpu-bind"
    ranges = [tuple(map(int, each.split("-"))) for each in cores.removeprefix("list:").split(":")]
    assert [last - first + 1 for first, last in ranges] == [8] * 12
    taken = [core for first, last in ranges for core in range(first, last + 1)]
    assert len(taken) == len(set(taken)) == 96
    assert not {0, 52} & set(taken)  # the system's
    assert all(last < 52 or first > 52 for first, last in ranges)  # no rank on two sockets


MEETING = "import os; print(*(os.environ.get(name, '-') for name in ('MASTER_ADDR', 'MASTER_PORT')))"


@pytest.mark.parametrize(
    "machine, hosts, met",
    [
        ("aurora", "x3.site,x4.site", "x3.hsn.cm.aurora.alcf.anl.gov -"),
        ("aurora", "x4,x3", "x4.hsn.cm.aurora.alcf.anl.gov -"),
        ("aurora", "x3.site", "- -"),  # within one host its ranks need no name
        ("polaris", "x3,x4", "- -"),  # rank 0 tells the others its own
    ],
)
def test_the_ranks_of_a_run_meet_at_its_own_first_host(here, monkeypatch, machine, hosts, met):
    """Whatever the sweep was told, which was true of the job's first host; and at a port that is free."""
    monkeypatch.setenv("MASTER_ADDR", "x0.hsn.cm.aurora.alcf.anl.gov")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("PARSL_MPI_PREFIX", "env")  # for a launcher
    monkeypatch.setenv("PARSL_MPI_NODELIST", hosts)
    monkeypatch.setenv("PMI_LOCAL_RANK", "0")
    ended = perform([sys.executable, "-c", MEETING], machine, str(here / "untold"))
    assert (ended.code, ended.words) == (0, met)


# Wrong input.

WRONG = {
    "no allocation": (
        ["--machine", "aurora"],
        "--machine aurora: a run of 1 rank needs 1 host, and this job has 0: ",
    ),
    "uneven": (["--machine", "polaris", "--ranks", "6"], "--ranks 6: a host of polaris takes 4: "),
}


@needs_parsl
@pytest.mark.parametrize("options, line", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(here, options, line):
    Path("s.toml").write_text("[grid]\nseed = [0]\n")
    done = subprocess.run(
        [*SWEEP, "--run", "--executor", "parsl", *options], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"mpisim: {line}")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["s.toml"]


def test_without_parsl_a_line_says_what_to_install(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "parsl", None)
    Path("s.toml").write_text("[grid]\nseed = [0]\n")
    assert main(["s.toml", "--run", "--executor", "parsl"]) == 2
    assert capsys.readouterr().err == "mpisim: --executor parsl needs Parsl: pip install 'mpisim[sweep]'\n"


@needs_parsl
def test_an_allocation_that_is_too_small_is_refused(allocation):
    allocation(2)
    with pytest.raises(
        InputError, match="a run of 36 ranks needs 3 hosts, and this job has 2: start it within a PBS job"
    ):
        hosts_of("aurora", 36, None)


# Runs.

TINY = """
[base]
topology = "ring:n=3"
epochs = 1
train_samples = 200
test_samples = 100
checkpoint_every = 1
rounds = {rounds}
[grid]
strategy = ["fl", "degree", "random"]
seed = [0, 1]
"""


def runs_of(text):
    Path("s.toml").write_text(text)
    return expand(read_sweep(Path("s.toml")))


def workers():
    """Return the processes of Parsl that work in this folder."""
    found = []
    for path in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            said = (path / "cmdline").read_bytes()
            if (b"process_worker_pool" in said or b"interchange" in said) and (path / "cwd").samefile("."):
                found.append(int(path.name))
    return found


@needs_parsl
def test_a_sweep_of_six_runs_with_a_failure_then_the_rest(here):
    runs = runs_of(TINY.format(rounds=2) + '[[set]]\nwhen = { strategy = "fl", seed = 1 }\ntopology = "later.txt"\n')
    command = [*SWEEP, "--run", "--executor", "parsl", "--ranks", "2", "--jobs", "2", "--no-download"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "5 of 6 runs done, in results/s; 1 failed"
    why = "exit code 2: later.txt: no such topology file"
    assert done.stderr == f"mpisim: run fl_seed1: {why} (results/s/fl_seed1.failed)\n"
    logs = [run.log(Path("results/s")) for run in runs]
    before = {log: log.read_bytes() for log in logs if log.exists()}
    assert len(before) == 5

    Path("later.txt").write_text("0 1 1 1\n1 0 1 1\n1 1 0 1\n1 1 1 0\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    [ended, summary] = done.stdout.splitlines()
    assert ended.startswith("6/6  fl_seed1  done in ")
    assert summary == "6 of 6 runs done, in results/s"
    assert {log: log.read_bytes() for log in before} == before
    for run, path in zip(runs, logs, strict=True):
        with h5py.File(path) as log:
            assert (log.attrs["status"], len(log["round"]), len(log["rank"])) == ("complete", 2, 2)
            assert json.loads(log.attrs["config"])["no_download"]
            assert len(log["node"]) == (4 if run.name == "fl_seed1" else 3)
    assert not list(Path("results/s").glob("*.failed"))
    assert workers() == []
    assert not list(Path("results/s/parsl").glob("hosts*"))


@needs_parsl
def test_a_signal_stops_runs_at_their_checkpoints_and_a_death_ends_parsl(here):
    runs = runs_of(TINY.format(rounds=100000) + '[[only]]\nstrategy = "fl"\n')
    logs = [run.log(Path("results/s")) for run in runs]
    command = [*SWEEP, "--run", "--executor", "parsl", "--jobs", "2"]

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: all(num_rounds(log) >= 2 for log in logs))
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 3, printed + errors
    for log in logs:
        with h5py.File(log) as file:
            assert file.attrs["status"] == "interrupted"
    assert workers() == []

    before = [num_rounds(log) for log in logs]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: all(num_rounds(log) > rounds for log, rounds in zip(logs, before, strict=True)))
        process.kill()
        process.communicate()
        # Parsl is gone soon; the runs go on, and nobody starts them again.
        wait_for(lambda: workers() == [])
        done = subprocess.run([*SWEEP, "--run"], capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 3
        assert done.stdout == "0 of 2 runs done, in results/s; 2 left alone: another process is writing them\n"
    finally:
        process.kill()
        process.communicate()
        for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with suppress(OSError):
                if b"mpisim.run" in Path(f"/proc/{pid}/cmdline").read_bytes() and Path(f"/proc/{pid}/cwd").samefile(
                    here
                ):
                    os.kill(pid, signal.SIGKILL)


def num_rounds(log):
    with suppress(OSError), h5py.File(log) as file:
        return len(file["round"])
    return 0


def wait_for(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
