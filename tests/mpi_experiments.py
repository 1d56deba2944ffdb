"""The experiments that ``mpi_session.py`` runs, and the data and the model that some of them are on."""

from dataclasses import replace

import numpy as np
from suite_device import on_gpu
from torch import nn

from mpisim import Config
from mpisim.data.datasets import DATASETS, Labeled, Recipe
from mpisim.models.catalog import MODELS, Model

# The experiments whose logs must be the same bits at any number of ranks. Few samples: bits do not need many.
SMALL = {
    "threads": 1,
    "rounds": 5,
    "epochs": 1,
    "train_samples": 300,
    "test_samples": 200,
    "quiet": True,
}
EXPERIMENTS = {
    "default": {"topology": "ba:n=9,m=2,seed=0"},
    "fl": {"topology": "ring:n=6", "strategy": "fl", "init": "independent"},
    "random": {"topology": "ws:n=8,k=4,p=0.5,seed=1", "strategy": "random", "shuffle": True, "seed": 7},
    "weighted": {"topology": "star:n=7", "strategy": "weighted", "optimizer": "adam", "lr": 0.01, "sample_alpha": 1.0},
    "everything": {
        "topology": "links.txt",
        "strategy": "random",
        "schedule": "cosine",
        "participation": 0.7,
        "link_dropout": 0.2,
        "optimizer": "adam",
        "lr": 0.01,
        "proximal": 0.05,
        "keep_optimizer_state": True,
        "shuffle": True,
        "augment": True,
        "trigger_position": "random",
        "trigger_label": "shift",
        "data_placement": "betweenness",
        "local_split": (0.6, 0.2, 0.2),
    },
    "similarity": {
        "topology": "ba:n=8,m=2,seed=1",
        "strategy": "degree-similarity",
        "ood": "noise",
        "ood_node": (0, 3),
    },
    "text": {
        "topology": "ring:n=5",
        "dataset": "tinymem",
        "model": "gpt2-1layer",
        "tinymem_examples": 60,
        "tinymem_tests": 20,
        "tinymem_context": 40,
        "train_samples": 60,
        "test_samples": 50,
        "ood_fraction": 0.5,
    },
    "photos": {
        "topology": "links.txt",
        "dataset": "photos",
        "model": "norm-and-dropout",
        "engine": "sequential",  # in a stack, Dropout2d has no generator of each node's
        "strategy": "random",
        "participation": 0.7,
        "shuffle": True,
        "augment": True,
        "evaluate_at": "both",
        "evaluate_every": "epoch",
        "epochs": 2,
        "train_samples": 100,
        "test_samples": 40,
    },
    "mobilenetv2": {
        "topology": "ring:n=3",
        "dataset": "photos",
        "augment": True,
        "batch_size": 5,
        "train_samples": 30,
        "test_samples": 10,
    },
    "mincut": {"topology": "ba:n=9,m=2,seed=0", "placement": "mincut"},
    "precision": {"topology": "ring:n=5", "precision": "bfloat16", "sample_alpha": 1.0},
    "precision-one-by-one": {"topology": "ring:n=5", "precision": "bfloat16", "engine": "sequential"},
    "wire": {"topology": "links.txt", "strategy": "metropolis", "label_alpha": 0.5, "ood": "none", "wire": "bfloat16"},
    "fl-wire": {
        "topology": "ring:n=7",
        "strategy": "fl",
        "init": "independent",
        "wire": "bfloat16",
        "participation": 0.8,
        "link_dropout": 0.3,
    },
    "similarity-wire": {
        "topology": "ba:n=8,m=2,seed=1",
        "strategy": "degree-similarity",
        "wire": "bfloat16",
        "proximal": 0.05,
        "placement": "mincut",
    },
    "failing": {"topology": "links.txt", "strategy": "metropolis", "label_alpha": 0.5, "ood": "none"},
}

# On a GPU these take smaller steps: Adam makes a step of the learning rate even of a gradient that is all rounding, and
# at ReLU's kinks a rounding decides where a step goes.
GENTLER = {
    "weighted": {"lr": 1e-3},
    "text": {"lr": 1e-5},
    "mobilenetv2": {"lr": 1e-5},
    "precision": {"lr": 1e-3},
    "precision-one-by-one": {"lr": 1e-3},
}
# And still more is left of these, relative to the largest value, than of others: what is all but in the middle between
# two bfloat16 may become either, and BatchNorm divides by how little five images differ.
ROUGHER = {"mobilenetv2": 0.05, "precision": 0.01, "precision-one-by-one": 0.01}


def load_photos(data_dir, download):
    """Return 120 training and 40 test images of noise: enough for bits to differ, and no file to read."""
    rng = np.random.default_rng(5)
    return tuple(
        Labeled(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, count))
        for count in (120, 40)
    )


def make_norm_and_dropout(input_shape, num_classes):
    """Return a model of layers whose results depend on what came before: on statistics, and on random numbers."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 6, 3, stride=4, padding=1),
        nn.BatchNorm2d(6),
        nn.Dropout2d(0.3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6 * 8 * 8, num_classes),
    )


def register_photos():
    """Make the data set and the model known to mpisim, in a process of their own."""
    DATASETS["photos"] = replace(DATASETS["cifar10"], load=load_photos, recipe=Recipe("mobilenetv2", "adam", 1e-3, 16))
    MODELS["norm-and-dropout"] = Model(make_norm_and_dropout, lambda shape: len(shape) == 3, "images")


def write_failing_links(folder):
    """Write a topology of seven nodes whose edges work every other round or so."""
    matrix = np.zeros((7, 7))
    for node in range(7):
        for neighbor in ((node + 1) % 7, (node + 3) % 7):
            matrix[node, neighbor] = matrix[neighbor, node] = 0.5
    path = folder / "links.txt"
    np.savetxt(path, matrix, fmt="%g")
    return str(path)


def experiment_config(name, folder, **others):
    options = SMALL | EXPERIMENTS[name] | (GENTLER.get(name, {}) if on_gpu() else {})
    options |= {"output": str(folder / f"{name}.h5")} | others
    if options["topology"] == "links.txt":
        options["topology"] = str(folder / "links.txt")
    if on_gpu() and options.get("transport") == "device":
        options["device"] = "cpu"  # torch.distributed does not take ranks that share a GPU
    return Config(**options)


# Every strategy runs on these.
TABLE = {
    "digits": {"topology": "ba:n=6,m=2,seed=11", "train_samples": 120, "sample_alpha": 5.0},
    "tinymem": EXPERIMENTS["text"],
}
