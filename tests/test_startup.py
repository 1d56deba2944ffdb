"""A rank that is alone though its launcher started several is noticed; a batch script's own shell is not one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpisim.errors import InputError
from mpisim.ranks.startup import check_launcher

FOREIGN = {
    "PALS_RANKID": "1",
    "PMI_SIZE": "3",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMIX_RANK": "4",
    "SLURM_STEP_NUM_TASKS": "8",
}


@pytest.mark.parametrize("variable, value", FOREIGN.items())
def test_a_launcher_of_several_and_a_rank_that_is_alone(variable, value):
    with pytest.raises(InputError, match=f"{variable}={value}, but this rank is alone in its MPI"):
        check_launcher(1, {variable: value})


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # in the batch script itself
        {"PALS_RANKID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
    ids=str,
)
def test_one_rank_that_is_to_be_alone(environment):
    assert check_launcher(1, environment) is None


def test_ranks_that_see_each_other_need_no_check():
    assert check_launcher(2, FOREIGN) is None


LEVEL = """
from mpisim import run
run._start()
from mpi4py import MPI
print({MPI.THREAD_FUNNELED: "funneled", MPI.THREAD_MULTIPLE: "multiple"}[MPI.Query_thread()])
"""


@pytest.mark.parametrize("transport, level", [("mpi", "multiple"), ("ofi", "funneled"), (None, "funneled")])
def test_only_where_oneccl_goes_by_mpi_may_other_threads_than_the_first_call_it(transport, level):
    environment = {name: value for name, value in os.environ.items() if name != "CCL_ATL_TRANSPORT"}
    environment |= {} if transport is None else {"CCL_ATL_TRANSPORT": transport}
    said = subprocess.run([sys.executable, "-c", LEVEL], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == f"{level}\n"


FAILS = """
import sys
from mpi4py import MPI
from mpisim.ranks.startup import abort
from mpisim.ranks.waiting import Waiting
sys.stdout = open("/dev/full", "w", buffering=1000)
sys.stdout.write("what no disk has room for")
try:
    if MPI.COMM_WORLD.rank == 1:
        raise RuntimeError("the tile is gone")
    Waiting().barrier(MPI.COMM_WORLD)
except RuntimeError:
    abort(MPI.COMM_WORLD)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_failure_ends_all_ranks_even_if_nothing_can_be_printed(tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    command = ["mpiexec", "-n", "2", sys.executable, "fails.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "mpisim: rank 1 of 2 on" in ended.stderr
    assert "RuntimeError: the tile is gone" in ended.stderr
