"""Opening the log of a run, on rank 0: a new one, or that of the run to go on with."""

from __future__ import annotations

from contextlib import ExitStack

from mpi4py import MPI

from mpisim.dealing import dataset_of
from mpisim.errors import writing
from mpisim.experiment import Experiment, free_output
from mpisim.resuming import existing_log
from mpisim.storage.checkpoint import checkpoint_folder, remove
from mpisim.storage.lock import locked
from mpisim.storage.log import Log
from mpisim.storage.provenance import provenance
from mpisim.storage.variables import logged_variables

MAX_NAMES_TAKEN = 100


def open_log(experiment: Experiment, places: list[dict[str, str | int]], held: ExitStack) -> tuple[Log, bool]:
    """Return the log, and whether it is that of a run to go on with; nobody else can write it until ``held`` closes.

    Raises
    ------
    InputError
        If another run is writing it.
    OSError
        If it cannot be made.
    """
    config = experiment.config
    resumes = config.resume and existing_log(config) is not None
    is_named = resumes or config.output is not None
    path = free_output(config)
    with writing(path):
        if is_named:  # before anything is made or replaced: another run may be about to
            held.enter_context(locked(path))
        if resumes:
            return Log(path), True
        log = _create_log(experiment, places)
        if not is_named:
            held.enter_context(locked(log.path))
        remove(checkpoint_folder(log.path))  # of a run whose log was here before
    return log, False


def attributes(experiment: Experiment, places: list[dict[str, str | int]]) -> dict[str, str]:
    """Return the root attributes of the log: how, where and with what it is made."""
    active = places[: experiment.num_ranks]
    return provenance(
        experiment.config.as_dict(),
        [str(place["host"]) for place in active],
        [str(place["device"]) for place in active],
        [int(place["threads"]) for place in active],
        MPI.Get_library_version().split("\n")[0].strip(),
    ) | {"data_kind": dataset_of(experiment.config).kind}


def _create_log(experiment: Experiment, places: list[dict[str, str | int]]) -> Log:
    config = experiment.config
    sizes, static = experiment.log_sizes(), experiment.log_variables()
    variables = logged_variables(**config.moments)
    of_log = attributes(experiment, places) | experiment.hashes()
    for _ in range(MAX_NAMES_TAKEN):
        try:
            return Log.create(free_output(config), sizes, static, of_log, config.overwrite, variables)
        except FileExistsError:
            # Another run took the name after the plan was made. Without --output there is a next one.
            if config.output is not None:
                raise
    raise FileExistsError(f"results: {MAX_NAMES_TAKEN} names were taken by others as soon as they were free")
