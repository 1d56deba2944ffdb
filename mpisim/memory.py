"""Memory: what a rank is going to need, and what it took."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from mpisim.dealing import dataset_of
from mpisim.exchange.mixing import block_width
from mpisim.exchange.rows import WIRES
from mpisim.exchange.transport import HELD, Transport, choose_transport
from mpisim.experiment import Experiment, make_model
from mpisim.learning.batches import padded_batch_size
from mpisim.learning.engine import choose_engine
from mpisim.learning.evaluation import fitting_batch
from mpisim.learning.parameters import FLOAT_BYTES, row_stride
from mpisim.learning.perceptron import is_perceptron
from mpisim.local_training import optimizer_settings
from mpisim.models.activations import activation_sizes

# What torch, its matrix library and MPI take when they are first used: 29 MiB with torch 2.13 and MPICH 5.
FIRST_USE_BYTES = 30 * 2**20
INDEX_BYTES = 8  # of a label, a token, or the place of a sample in a plan


def peak_memory() -> int:
    """Return the most memory that this process has had so far, resident, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def present_memory() -> int:
    """Return the memory that this process has now, resident, in bytes; where the system does not tell, its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def models_memory(experiment: Experiment, device: torch.device) -> list[tuple[int, int]]:
    """Return what the models of each rank take for certain, in bytes: (all the time, beside it for a while).

    All the time there are the rank's rows of X, what it sends and hears, and for a proximal term the sums of neighbors'
    models; while nodes train a stack's copy of its rows and sums, gradients and the optimizer's state; while models are
    compared, as they travel, a copy of the rows if that rounds them.
    """
    config, model = experiment.config, experiment.module
    row = row_stride(experiment.num_columns) * FLOAT_BYTES
    held = HELD[choose_transport(config.transport, config.gpu_aware, device).way]
    engine = choose_engine(config.engine, config.stack, model, experiment.num_columns, device)
    settings = optimizer_settings(config)
    # Plain SGD on a perceptron has no gradients; a stack is a copy of its rows.
    straight = engine.batched and is_perceptron(model) and settings.name == "sgd" and not settings.moments
    straight = straight and config.precision == "float32" and not config.proximal
    rounds_rows = experiment.rule.similarity and WIRES[config.wire] != torch.float32
    replays = engine.batched and device.type == "cuda"  # then a stack has memory of its own
    found = []
    for plan in experiment.plans:
        num_own = len(plan.own)
        stack = min(engine.stack, num_own)
        copies = (stack if stack > 1 or replays else 0) + (0 if straight or config.no_train else stack)
        copies += stack if config.proximal and engine.batched else 0
        states = (num_own + stack * replays if config.keep_optimizer_state else stack) * len(settings.moments)
        compared = num_own * row * WIRES[config.wire].itemsize // FLOAT_BYTES if rounds_rows else 0
        rows = num_own * row * (2 if config.proximal else 1)
        rows += plan.memory(experiment.num_columns, WIRES[config.wire], held)
        found.append((rows, max((copies + states) * row, compared)))
    return found


def staging_memory(experiment: Experiment, transport: Transport) -> int:
    """Return the pinned memory of its host that a rank will need at the most, in bytes, for models of its device."""
    if transport.way != "staged":
        return 0
    wire = WIRES[experiment.config.wire]
    return max(plan.staged(experiment.num_columns, wire) for plan in experiment.plans)


def predicted_memory(experiment: Experiment, device: torch.device) -> int:
    """Return the memory that a rank will need at the most, in bytes: on a CPU of the host, else of the device.

    To be called on rank 0 before the first round: all that a process has by then counts as needed by every rank.
    """
    config, dataset = experiment.config, dataset_of(experiment.config)
    model = make_model(config, dataset)
    sizes = activation_sizes(model, dataset.input_shape, torch.device("cpu"))
    sample = int(np.prod(dataset.input_shape)) * (INDEX_BYTES if dataset.kind == "text" else FLOAT_BYTES)
    engine = choose_engine(config.engine, config.stack, model, experiment.num_columns, device)
    num_tests = len(experiment.test_split.clean) + len(experiment.test_split.ood)
    largest = 0
    for plan, (rows, trained) in zip(experiment.plans, models_memory(experiment, device), strict=True):
        stack = min(engine.stack, len(plan.own))
        batch = min(int(config.batch_size or 1), int(experiment.train_samples.max()))
        width = padded_batch_size(batch, int(experiment.train_samples.max())) if is_perceptron(model) else batch
        training = trained + 2 * stack * batch * sum(sizes) * FLOAT_BYTES
        testing = 2 * fitting_batch(sizes, device) * max(sizes) * FLOAT_BYTES
        num_samples = int(experiment.train_samples[plan.own].sum()) + num_tests
        num_batches = int((-(-experiment.train_samples[plan.own] // batch)).sum())
        # Where a batch's samples lie, and their weights; which batch comes in each step, and how many samples it has.
        table = num_batches * width * (INDEX_BYTES + FLOAT_BYTES) * (config.epochs if config.shuffle else 1)
        plans = (table + num_batches * config.epochs * 2 * INDEX_BYTES) * engine.batched
        data = num_samples * (sample + INDEX_BYTES)
        mixed = len(plan.mixed) * (1 if config.wire == "float32" else 2)  # what others heard of them, too, if rounded
        mixing = mixed * min(block_width(mixed, device), experiment.num_columns) * FLOAT_BYTES
        # On a GPU, what steps that are replayed compute in stays theirs.
        computing = training + max(testing, mixing) if device.type == "cuda" else max(training, testing, mixing)
        largest = max(largest, rows + data + plans + computing)
    return largest + (FIRST_USE_BYTES + present_memory() if device.type == "cpu" else 0)
