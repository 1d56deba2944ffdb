"""The log: one HDF5 file per run, written by rank 0 alone, whole at every moment.

Each round is appended to an image of the file in memory, which is then written out whole, beside the log, and takes
its place: whoever kills the run, and whatever fails in the middle of a write, finds every finished round in a file that
opens, and a reader never meets half a round. Writing it whole costs little: a log holds a few hundred bytes of each
node and round, which took milliseconds at least to train. The dimensions are HDF5 dimension scales, so h5py, netCDF
tools and xarray read the file as it stands.
"""

from __future__ import annotations

import datetime
import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.errors import InputError
from mpisim.storage.image import Image, make_variables
from mpisim.storage.variables import FINAL_VARIABLES, VARIABLES, Variable

if TYPE_CHECKING:
    import h5py

SCHEMA = "mpisim-log"
SCHEMA_VERSION = 1


class Log:
    """A log being written, by nobody else. Its file is closed, and whole, between any two calls and within them.

    Parameters
    ----------
    path : Path
        A file made by ``create``.
    """

    def __init__(self, path: Path):
        self.path = path
        self._checkpoint_round: int | None = None  # None: as the file has it
        self._image: Image | None = None  # of the file as it is; None: not read yet

    @classmethod
    def create(
        cls,
        path: Path,
        sizes: Mapping[str, int],
        static: Mapping[str, np.ndarray],
        attributes: Mapping[str, Any],
        overwrite: bool = False,
        variables: Mapping[str, Variable] = VARIABLES,
    ) -> Log:
        """Make the file: all its variables, those filled that no round changes.

        Parameters
        ----------
        sizes : of the dimensions but round
        static : the variables without the dimension round, by name, but the final ones
        attributes : root attributes beside schema, schema_version, status, checkpoint_round and date_created
        overwrite : bool
            Whether a file of this name gives way.
        variables : from ``logged_variables``
            Those that the log has.

        Raises
        ------
        FileExistsError
            If there is a file of this name already.
        OSError
            If the file cannot be written.
        """
        image = Image()
        _write_attributes(image.file, attributes)
        make_variables(image.file, variables, dict(sizes) | {"round": 0}, static)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _successor(path, image) as successor:
            if overwrite:
                successor.replace(path)
            else:
                os.link(successor, path)  # unlike a rename, fails if the name is taken, whoever took it
        log = cls(path)
        log._image = image
        return log

    def append(self, round: int, values: Mapping[str, Any]) -> None:
        """Append a round: a value for every variable that has rounds.

        Parameters
        ----------
        round : int
            From 1.
        values : arrays by name, of the variable's shape without the dimension round

        Raises
        ------
        ValueError
            If a variable is missing, or of another shape, or there is no such variable in the log.
        OSError
            If the round cannot be written; the log then is as it was.
        """
        with self._changed() as image:
            _check_names(image.growing.keys() - {"round"}, values)
            for name, value in (("round", round), *values.items()):
                image.growing[name].append(value)

    def set_status(self, status: str, final_values: Mapping[str, Any] | None = None) -> None:
        """Say how the run stands: "running", "interrupted" or "complete".

        Parameters
        ----------
        final_values : float64 arrays by name, shape (num_nodes,)
            Of a complete run.
        """
        with self._changed() as image:
            if final_values is not None:
                _check_names(set(FINAL_VARIABLES), final_values)
                for name, values in final_values.items():
                    image.file[name][: len(values)] = values
            image.file.attrs["status"] = status

    def note_checkpoint(self, round: int) -> None:
        """Note of which round the newest checkpoint is, 0 if there is none: the log says so from its next change on."""
        self._checkpoint_round = round

    def tidy(self) -> None:
        """Remove what a run that was killed while it wrote has left beside the log. Nobody else may be writing it."""
        for path in self.path.parent.glob(f".{glob.escape(self.path.name)}.*"):
            if path.name.rpartition(".")[2].isdigit():
                path.unlink()

    @property
    def num_rounds(self) -> int:
        """The number of rounds in it."""
        self._image = self._image or Image(self.path.read_bytes())
        return len(self._image.file["round"])

    def rewind(self, num_rounds: int, rank_of_node: np.ndarray, attributes: Mapping[str, Any]) -> None:
        """Take back all rounds after some, and the final values: the run goes on from there, on other ranks perhaps.

        Parameters
        ----------
        rank_of_node : int64, shape (num_nodes,)
        attributes : root attributes that change; the history is added to
        """
        with self._changed() as image:
            for name in image.growing:
                image.file[name].resize(num_rounds, axis=0)
            num_ranks = max(len(image.file["rank"]), int(rank_of_node.max()) + 1)
            for name, variable in VARIABLES.items():
                if "rank" in variable.dims:
                    image.file[name].resize(num_ranks, axis=variable.dims.index("rank"))
            image.file["rank"].resize(num_ranks, axis=0)
            image.file["rank"][:] = np.arange(num_ranks)
            del image.growing  # which knew the old sizes
            for name in FINAL_VARIABLES:
                image.file[name][:] = np.nan
            image.file["rank_of_node"][:] = rank_of_node
            self.note_checkpoint(num_rounds)
            history = {"history": f"{image.file.attrs['history']}\n{attributes['history']}"}
            image.file.attrs.update({"status": "running", **attributes, **history})

    @contextmanager
    def _changed(self) -> Iterator[Image]:
        """Give an image of the file to change; if all goes well, it takes the log's place."""
        image = self._image or Image(self.path.read_bytes())
        self._image = None  # whatever fails from here on: the log on disk is right, and read again
        yield image
        if self._checkpoint_round is not None:
            image.file.attrs.modify("checkpoint_round", self._checkpoint_round)
        with _successor(self.path, image) as successor:
            successor.replace(self.path)
        self._image = image


@contextmanager
def _successor(path: Path, image: Image) -> Iterator[Path]:
    """Write an image to a file beside the log that may take its place; afterwards nothing of its name is left."""
    successor = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with image.content() as content, successor.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a host that crashes could leave a name without content
        yield successor
    finally:
        successor.unlink(missing_ok=True)


def is_log(path: Path) -> bool:
    """Return whether a file is a log of mpisim, and so may be replaced by one.

    Raises
    ------
    InputError
        If another program has it open to write.
    """
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("schema")) == SCHEMA
    except BlockingIOError as error:
        raise InputError(f"{path}: another program has it open to write: close it there") from error
    except OSError:
        return False


def _check_names(wanted: set[str], values: Mapping[str, Any]) -> None:
    if values.keys() != wanted:
        raise ValueError(f"the log wants, or does not know: {', '.join(sorted(values.keys() ^ wanted))}")


def _write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    file.attrs["schema"] = SCHEMA
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["status"] = "running"
    file.attrs["checkpoint_round"] = 0
    file.attrs["date_created"] = now
    for name, value in attributes.items():
        file.attrs[name] = value
