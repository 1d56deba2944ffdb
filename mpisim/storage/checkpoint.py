"""Checkpoints: what a run needs to go on after a round, one safetensors file per rank, whole or not there.

Those of results/run.h5 lie in results/run.ckpt: round-000005/rank-00003.safetensors and so on, and a manifest.json. A
file gets its name when all of it is on disk, and the manifest comes last and alone makes a checkpoint valid: a run may
be killed at any moment. It knows each file's checksum and nodes, so any number of ranks can read them back.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SCHEMA = {"schema": "mpisim-checkpoint", "schema_version": 1}
MANIFEST = "manifest.json"
SHARD_NAME = r"rank-[0-9]{5,}\.safetensors"
OWN_NAME = rf"manifest\.json|{SHARD_NAME}|\.(manifest\.json|{SHARD_NAME})\.tmp"
TYPES = {np.dtype(f"<{code}"): f"{code[0].upper()}{8 * int(code[1])}" for code in ("f4", "f8", "i4", "i8", "u1", "u2")}


class BadCheckpoint(Exception):  # noqa: N818
    """A file of a checkpoint is not what was written; the message is one line that names it and says what is wrong."""


@dataclass(frozen=True)
class Shard:
    """One rank's file of a checkpoint: size in bytes, checksum, and its nodes in the order of its arrays."""

    name: str
    size: int
    checksum: int  # CRC-32 sees each flipped bit and all but one in 2³² accidents: 4.1 GB/s; BLAKE2b, for foes too: 0.9
    nodes: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self) | {"nodes": list(self.nodes)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Shard:
        """Return the shard of an ``as_dict``."""
        return cls(data["name"], data["size"], data["checksum"], tuple(data["nodes"]))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest makes sense; whether its files are what was written, ``verify`` tells."""

    folder: Path
    round: int
    options: dict[str, Any]
    num_nodes: int
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        nodes = [node for shard in self.shards for node in shard.nodes]
        numbers = [self.round, self.num_nodes, *nodes, *(n for s in self.shards for n in (s.size, s.checksum))]
        names = {shard.name for shard in self.shards if re.fullmatch(SHARD_NAME, shard.name)}
        if not all(type(n) is int and n >= 0 for n in numbers) or len(names) != len(self.shards):
            raise ValueError("has names of files, or numbers, that cannot be")
        if not nodes or len(nodes) != self.num_nodes or sorted(nodes) != list(range(len(nodes))):
            raise ValueError("does not have each node once")

    def verify(self, shard: Shard) -> None:
        """Read a file whole; raise BadCheckpoint unless it is, bit for bit, the one that was written."""
        path, checksum = self.folder / shard.name, 0
        with _readable(path, shard.size), path.open("rb") as file:
            while piece := file.read(1 << 20):
                checksum = zlib.crc32(piece, checksum)
        if checksum != shard.checksum:
            raise BadCheckpoint(f"{path}: damaged, its checksum is {checksum:08x} and not {shard.checksum:08x}")

    def read(self, nodes: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of these nodes, in this order, from the files that hold them; of no nodes, none.

        No more of a file is read than they take, so no checksum is looked at: that is for ``verify``.
        """
        from safetensors import safe_open

        arrays: dict[str, np.ndarray] = {}
        held = {node: (shard, index) for shard in self.shards for index, node in enumerate(shard.nodes)}
        wanted: dict[str, list[tuple[int, int]]] = {}
        for place, node in enumerate(nodes.tolist()):
            wanted.setdefault(held[node][0].name, []).append((place, held[node][1]))
        for shard in (shard for shard in self.shards if shard.name in wanted):
            path = self.folder / shard.name
            with _readable(path, shard.size), safe_open(path, framework="np") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                lengths = {(*part.get_shape(), 0)[0] for part in parts.values()}
                if lengths != {len(shard.nodes)} or not {"nodes"} <= parts.keys() == (arrays or parts).keys():
                    raise BadCheckpoint(f"{path}: has not the arrays that it should have")
                for name, part in parts.items():
                    for place, index in wanted[shard.name]:
                        value = part[index : index + 1]
                        if name not in arrays:  # as large as data that is there, whatever the header says
                            arrays[name] = np.empty((len(nodes), *value[0].shape), value.dtype)
                        is_alike = (value.dtype, value.shape) == (arrays[name].dtype, (1, *arrays[name].shape[1:]))
                        if not is_alike or (name == "nodes" and value[0] != nodes[place]):
                            raise BadCheckpoint(f"{path}: {name!r} is not what it should be")
                        arrays[name][place] = value[0]
        return arrays


def checkpoint_folder(log_path: Path) -> Path:
    """Return where a log's checkpoints lie: results/run.ckpt for results/run.h5."""
    return log_path.with_name(f"{log_path.name.removesuffix('.h5')}.ckpt")


def write_shard(folder: Path, round: int, rank: int, arrays: Mapping[str, np.ndarray]) -> Shard:
    """Write a rank's file of a checkpoint, to be committed; after an OSError nothing is left of it.

    The arrays' first dimension is the rank's nodes, numbered by "nodes". Of one with gaps, a node at a time is copied.
    """
    header, end, arrays = {}, 0, dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))  # each value aligned
    for name, array in arrays.items():
        if array.dtype not in TYPES or array.shape[:1] != arrays["nodes"].shape or name == "__metadata__":
            raise ValueError(f"{name}, {array.dtype} of shape {array.shape}, cannot be in a checkpoint")
        start, end = end, end + array.nbytes
        header[name] = {"dtype": TYPES[array.dtype], "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header)  # by hand: safetensors' own writer takes no arrays with gaps, and gives no checksum
    text += " " * (-len(text) % 8)
    path = folder / f"round-{round:06d}" / f"rank-{rank:05d}.safetensors"
    for place in (folder, path.parent):  # not that of the log: where it is gone, so is the log
        with suppress(FileExistsError):  # if it is no folder, opening a file in it says so
            place.mkdir()
    path.with_name(MANIFEST).unlink(missing_ok=True)  # of a checkpoint found damaged: it knows other files
    head = len(text).to_bytes(8, "little") + text.encode()
    checksum = zlib.crc32(head)
    with _new(path) as file:
        file.write(head)
        for array in arrays.values():
            for part in [array] if array.flags.c_contiguous else array[:, None]:
                data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
                file.write(data)
                checksum = zlib.crc32(data, checksum)
    return Shard(path.name, len(head) + end, checksum, tuple(arrays["nodes"].tolist()))


def commit(folder: Path, round: int, shards: list[Shard], options: dict[str, Any], num_nodes: int) -> None:
    """Make a checkpoint valid, all files of which are written; then remove what no run will want any more.

    Two valid ones up to this round stay; and any later one, which a run that resumed here found damaged, until it is
    that far again. After an OSError in writing there is no manifest.
    """
    path = folder / f"round-{round:06d}" / MANIFEST
    Checkpoint(path.parent, round, options, num_nodes, tuple(shards))  # or a ValueError
    manifest = dict(SCHEMA, round=round, num_nodes=num_nodes, options=options, shards=[s.as_dict() for s in shards])
    _sync(path.parent)  # the files' names, which every rank has left to this one: once, and before the manifest's
    with _new(path) as file:
        file.write(json.dumps(manifest | {"checksum": zlib.crc32(json.dumps(manifest).encode())}).encode())
    try:
        for place in path.parents[:3]:  # those that may be new
            _sync(place)
    except OSError:
        path.unlink()
        raise
    valid = [checkpoint for checkpoint in checkpoints(folder) if checkpoint.round <= round]
    kept = {each.folder: [MANIFEST, *(shard.name for shard in each.shards)] for each in valid[:2]}
    attempts = [place for place in _places(folder) if int(place.name[6:]) < round and not (place / MANIFEST).exists()]
    for place in (*(each.folder for each in valid), *attempts):
        _clean(place, kept.get(place, []))


def checkpoints(folder: Path, report: Callable[[str], object] = lambda _: None) -> list[Checkpoint]:
    """Return a log's checkpoints whose manifest makes sense, the newest first; report a line on each of the others."""
    found = []
    for place in _places(folder):
        try:
            found.append(_read_manifest(place / MANIFEST))
        except FileNotFoundError:
            report(f"{place}: was not finished, it has no manifest")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            report(f"{place / MANIFEST}: {error}")
    return found


def remove(folder: Path) -> None:
    """Remove all checkpoints of a log: the files that bear their names. Whatever else lies there stays."""
    for place in _places(folder):
        _clean(place)
    with suppress(OSError):  # it is not there, or not empty
        folder.rmdir()


def _places(folder: Path) -> list[Path]:
    """Return the folders of rounds, the newest first."""
    places = [path for path in folder.glob("round-*") if re.fullmatch("round-[0-9]{6,}", path.name)]
    return sorted((p for p in places if p.is_dir() and not p.is_symlink()), key=lambda p: int(p.name[6:]), reverse=True)


def _clean(place: Path, kept: Container[str] = ()) -> None:
    """Remove what bears our names, the manifest first, without which the others are nothing."""
    for path in sorted(place.iterdir(), key=lambda path: path.name != MANIFEST):
        if re.fullmatch(OWN_NAME, path.name) and path.name not in kept and not path.is_dir():
            path.unlink(missing_ok=True)
    with suppress(OSError):  # it is not empty
        place.rmdir()


def _read_manifest(path: Path) -> Checkpoint:
    """Return the checkpoint of a manifest; whatever is raised says why there is none."""
    manifest = json.loads(path.read_bytes()) if 0 < path.stat().st_size <= 1 << 26 else None  # millions of nodes
    wanted = SCHEMA | {"round": int(path.parent.name[6:])}
    if not isinstance(manifest, dict) or any(manifest.get(key) != value for key, value in wanted.items()):
        raise ValueError("is no manifest of this round's checkpoint, or of another version of mpisim")
    if manifest.pop("checksum", None) != zlib.crc32(json.dumps(manifest).encode()):
        raise ValueError("damaged, its checksum is another")
    shards, options = tuple(map(Shard.from_dict, manifest["shards"])), dict(manifest["options"])
    return Checkpoint(path.parent, manifest["round"], options, manifest["num_nodes"], shards)


@contextmanager
def _readable(path: Path, size: int) -> Iterator[None]:
    """Say what is wrong with a file that cannot be read."""
    from safetensors import SafetensorError

    try:
        if not 0 < path.stat().st_size == size:  # a pipe, where reading would wait, has 0
            raise BadCheckpoint(f"{path}: has {path.stat().st_size} bytes and not {size}")
        yield
    except OSError as error:
        raise BadCheckpoint(f"{path}: {error.strerror}") from error  # it is missing, as a rule
    except (SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:  # of types unknown to numpy
        raise BadCheckpoint(f"{path}: is no safetensors file of a checkpoint") from error


@contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when all of it is on disk; if that fails, there is none of this name."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        for each in (temporary, path):
            with suppress(OSError):
                each.unlink()
        raise


def _sync(folder: Path) -> None:
    """Put the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot do it with folders
            raise
    finally:
        os.close(descriptor)
