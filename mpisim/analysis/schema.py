"""What a log must hold for its readers to trust it: attributes, variables, and shapes that fit together.

Analysis knows a log by what is in the file alone, so what it relies on is written down here: a file that lacks any of
it is told apart when it is opened, by its name, and no reader has to expect half a log. Logs have gained variables over
time: what one lacks beside these few, every reader leaves out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mpisim.errors import InputError

if TYPE_CHECKING:
    import h5py

SCHEMA, SCHEMA_VERSION = "mpisim-log", 1
STATUSES = ("running", "interrupted", "complete")

ROUND_NODE, ROUND_RANK = ("round", "node"), ("round", "rank")
DIMENSIONS = ("round", "node", "rank", "link")
REQUIRED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys([f"{part}_seconds" for part in ("train", "test", "exchange", "mix", "log")], ROUND_RANK),
    **dict.fromkeys(["degree", "is_ood"], ("node",)),
    **dict.fromkeys(["link_target", "link_source", "link_weight"], ("link",)),
}
# What a reader takes as NaN where a log does not have it.
OPTIONAL: dict[str, tuple[str, ...]] = {
    "train_loss": ROUND_NODE,
    "participated": ROUND_NODE,
    "consensus_distance": ("round",),
    "temperature": ("round",),
    "bytes_sent": ROUND_RANK,
    "peak_memory": ("rank",),
    **dict.fromkeys(["betweenness", "train_samples", "rank_of_node"], ("node",)),
    "label_counts": ("node", "label"),
    **dict.fromkeys([f"{kind}_{what}_final" for kind in ("iid", "ood") for what in ("accuracy", "loss")], ("node",)),
}
# A log has these of trained models or, by the same names and _aggregated, of aggregated ones, or both; the accuracy on
# the clean test set it must have, the others are as optional as those above.
SCORES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys([f"{kind}_{what}" for kind in ("iid", "ood") for what in ("accuracy", "loss")], ROUND_NODE),
    "own_accuracy": ROUND_NODE,
    "iid_recall": (*ROUND_NODE, "label"),
}


def check(file: h5py.File) -> None:
    """Find out whether an open file is a log that readers can rely on. Only shapes and attributes are looked at.

    Raises
    ------
    InputError
        If it is not; the message does not name the file.
    """
    attributes = {name: file.attrs.get(name) for name in ("schema", "schema_version")}
    if str(attributes["schema"]) != SCHEMA:
        raise InputError(f"is no log of mpisim (its attribute schema is not {SCHEMA!r})")
    if str(attributes["schema_version"]) != str(SCHEMA_VERSION):
        version = attributes["schema_version"]
        writer = file.attrs.get("mpisim_version", "that wrote it")
        raise InputError(f"has the schema version {version}, this mpisim reads {SCHEMA_VERSION}: take mpisim {writer}")
    _check_attributes(file)
    present = set(file)
    sizes = {dim: _shape(file, dim, 1)[0] for dim in DIMENSIONS}
    sizes["label"] = _shape(file, "label", 1)[0] if "label" in present else 0
    if "iid_accuracy_aggregated" not in present:
        _check_shape(file, "iid_accuracy", SCORES["iid_accuracy"], sizes)
    for name, dims in REQUIRED.items():
        _check_shape(file, name, dims, sizes)
    aggregated = {f"{name}_aggregated": dims for name, dims in SCORES.items()}
    for name, dims in (OPTIONAL | SCORES | aggregated).items():
        if name in present:
            _check_shape(file, name, dims, sizes)
    for name in SCORES:
        if f"{name}_by_epoch" in present:
            _check_shape(file, f"{name}_by_epoch", ("round", "epoch", "node"), sizes | _epochs(file))


def options(file: h5py.File) -> dict[str, Any]:
    """Return the options in a log's attribute ``config``, by name.

    Raises
    ------
    InputError
        If they are not there, or the number of rounds is not among them; the message does not name the file.
    """
    try:
        found = json.loads(str(file.attrs.get("config", "")))
    except (ValueError, RecursionError) as error:
        raise InputError(f"is a broken log: its attribute config is not JSON ({error})") from error
    rounds = found.get("rounds") if isinstance(found, dict) else None
    if not isinstance(rounds, int) or isinstance(rounds, bool):
        raise InputError("is a broken log: its attribute config does not say how many rounds")
    return dict(found)


def _check_attributes(file: h5py.File) -> None:
    if "status" not in file.attrs:
        raise InputError("is a broken log: its attribute status is missing")
    status = str(file.attrs["status"])
    if status not in STATUSES:
        raise InputError(f"is a broken log: its status is {status!r}, not one of {', '.join(STATUSES)}")
    options(file)


def _epochs(file: h5py.File) -> dict[str, int]:
    return {"epoch": _shape(file, "epoch", 1)[0]}


def _shape(file: h5py.File, name: str, num_dims: int) -> tuple[int, ...]:
    """Return the shape of a variable that holds numbers."""
    import h5py

    try:
        variable = h5py.h5d.open(file.id, name.encode())  # takes a third of the time of file[name]
    except KeyError as error:
        raise InputError(f"is a broken log: its variable {name} is missing") from error
    shape = variable.shape
    if shape is None or variable.get_type().get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        raise InputError(f"is a broken log: its variable {name} holds no numbers")
    if len(shape) != num_dims:
        raise InputError(f"is a broken log: its variable {name} has the shape {shape}, which is not {num_dims} long")
    return tuple(shape)


def _check_shape(file: h5py.File, name: str, dims: tuple[str, ...], sizes: dict[str, int]) -> None:
    shape, wanted = _shape(file, name, len(dims)), tuple(sizes[dim] for dim in dims)
    if shape != wanted:
        raise InputError(
            f"is a broken log: its variable {name} has the shape {shape}, but {' × '.join(dims)} is {wanted}"
        )
