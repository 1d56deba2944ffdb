"""Every option is a flag and a TOML key that mean the same; what is wrong is one line that names it."""

import dataclasses
import json
import subprocess
import sys

import pytest

from mpisim.arguments import parse_config
from mpisim.config import Config
from mpisim.data.datasets import DATASETS
from mpisim.errors import InputError

# Of every option: what follows its flag, the value of its TOML key, and what both mean; never the default.
GIVEN = {
    "name": ("mine", '"mine"', "mine"),
    "output": ("logs/a.h5", '"logs/a.h5"', "logs/a.h5"),
    "seed": ("3", "3", 3),
    "rounds": ("4", "4", 4),
    "epochs": ("2", "2", 2),
    "topology": ("ring:n=8", '"ring:n=8"', "ring:n=8"),
    "placement": ("mincut", '"mincut"', "mincut"),
    "strategy": ("random", '"random"', "random"),
    "normalize": ("sum", '"sum"', "sum"),
    "temperature": ("-0.5", "-0.5", -0.5),
    "schedule": ("cosine", '"cosine"', "cosine"),
    "schedule_period": ("3", "3", 3),
    "schedule_multiplier": ("2", "2", 2),
    "schedule_floor": ("-5", "-5", -5.0),
    "schedule_decay": ("0.5", "0.5", 0.5),
    "dataset": ("mnist", '"mnist"', "mnist"),
    "data_dir": ("files", '"files"', "files"),
    "no_download": ("", "true", True),
    "train_samples": ("100", "100", 100),
    "test_samples": ("50", "50", 50),
    "label_alpha": ("2", "2", 2.0),
    "sample_alpha": ("0.5", "0.5", 0.5),
    "local_split": ("0.5 0.25 0.25", "[0.5, 0.25, 0.25]", (0.5, 0.25, 0.25)),
    "augment": ("", "true", True),
    "data_placement": ("degree", '"degree"', "degree"),
    "data_placement_offset": ("2", "2", 2),
    "tinymem_tasks": ("prime", '"prime"', "prime"),
    "tinymem_operation": ("sum", '"sum"', "sum"),
    "tinymem_modulo": ("97", "97", 97),
    "tinymem_length": ("5", "5", 5),
    "tinymem_context": ("30", "30", 30),
    "tinymem_examples": ("40", "40", 40),
    "tinymem_tests": ("4", "4", 4),
    "ood": ("none", '"none"', "none"),
    "ood_node": ("5 2", "[5, 2]", (5, 2)),
    "ood_rank": ("4", "4", 4),
    "ood_fraction": ("0.25", "0.25", 0.25),
    "trigger_position": ("random", '"random"', "random"),
    "trigger_label": ("shift", '"shift"', "shift"),
    "model": ("mlp", '"mlp"', "mlp"),
    "init": ("independent", '"independent"', "independent"),
    "batch_size": ("7", "7", 7),
    "optimizer": ("adamw", '"adamw"', "adamw"),
    "lr": ("1e-3", "1e-3", 0.001),
    "momentum": ("0.9", "0.9", 0.9),
    "weight_decay": ("1", "1", 1.0),
    "betas": ("0.5 0.75", "[0.5, 0.75]", (0.5, 0.75)),
    "keep_optimizer_state": ("", "true", True),
    "proximal": ("0.1", "0.1", 0.1),
    "shuffle": ("", "true", True),
    "no_train": ("", "true", True),
    "participation": ("0.5", "0.5", 0.5),
    "link_dropout": ("0.25", "0.25", 0.25),
    "device": ("cpu", '"cpu"', "cpu"),
    "engine": ("batched", '"batched"', "batched"),
    "stack": ("3", "3", 3),
    "wire": ("bfloat16", '"bfloat16"', "bfloat16"),
    "transport": ("device", '"device"', "device"),
    "gpu_aware": ("", "true", True),
    "precision": ("bfloat16", '"bfloat16"', "bfloat16"),
    "deterministic": ("", "true", True),
    "threads": ("2", "2", 2),
    "evaluate_at": ("both", '"both"', "both"),
    "evaluate_every": ("epoch", '"epoch"', "epoch"),
    "checkpoint_every": ("2", "2", 2),
    "resume": ("", "true", True),
    "walltime": ("60", "60", 60.0),
    "timeout": ("5", "5", 5.0),
    "stop_on_nan": ("", "true", True),
    "overwrite": ("--output a.h5", 'true\noutput = "a.h5"', True),
    "dry_run": ("", "true", True),
    "quiet": ("", "true", True),
    "estimate": ("2 4", "[2, 4]", (2, 4)),
    "ranks_per_host": ("12", "12", 12),
    "latency": ("5", "5", 5.0),
    "bandwidth": ("20", "20", 20.0),
}  # fmt: skip


def flag(name):
    return "--" + name.replace("_", "-")


@pytest.fixture
def parse_toml(tmp_path):
    """Return a function from TOML text, and flags that win over it, to a Config."""

    def parse(text, *flags):
        (tmp_path / "options.toml").write_text(text)
        return parse_config(["--config", str(tmp_path / "options.toml"), *flags])

    return parse


def test_every_option_is_in_the_table():
    assert list(GIVEN) == [option.name for option in dataclasses.fields(Config)]


@pytest.mark.parametrize("name, after_flag, toml, value", [(name, *given) for name, given in GIVEN.items()])
def test_a_flag_and_a_toml_key_give_the_same_config(parse_toml, name, after_flag, toml, value):
    by_flag = parse_config([flag(name), *after_flag.split()])
    assert by_flag == parse_toml(f"{name} = {toml}\n")
    assert getattr(by_flag, name) == value != getattr(Config(), name)
    assert type(getattr(by_flag, name)) is type(value)


@pytest.mark.parametrize("name", DATASETS)
def test_the_data_set_brings_its_recipe(name):
    study = ("mlp", "sgd", 0.01, 64)
    expected = {
        "cifar10": ("vgg16", "adam", 1e-4, 64),
        "cifar100": ("vgg16", "adam", 1e-4, 64),
        "digits": ("mlp-small", "sgd", 0.1, 16),
        "fmnist": study,
        "mnist": study,
        "tinymem": ("gpt2", "adam", 1e-3, 64),
    }[name]
    options = parse_config(["--dataset", name])
    assert (options.model, options.optimizer, options.lr, options.batch_size) == expected


def test_a_flag_wins_over_toml_toml_over_the_recipe_and_the_recipe_over_the_default(parse_toml):
    toml = 'dataset = "mnist"\nlr = 0.5\nrounds = 7\nepochs = 3\nquiet = true\nshuffle = true\n'
    options = parse_toml(toml, "--rounds", "9", "--no-quiet")
    assert (options.seed, options.batch_size, options.lr, options.epochs, options.rounds) == (0, 64, 0.5, 3, 9)
    assert (options.quiet, options.shuffle) == (False, True)
    assert parse_toml(toml, "--dataset", "digits", "--lr", "0.7").lr == 0.7


WRONG_FLAGS = {
    "--seed -1": "--seed -1: must be 0 or more",
    "--seed 9223372036854775808": "--seed 9223372036854775808: is too large",
    "--rounds 0": "--rounds 0: must be 1 or more",
    "--rounds 1.5": "argument --rounds: invalid int value: '1.5'",
    "--rounds": "argument --rounds: expected one argument",
    "--round 3": "unrecognized arguments: --round 3",  # no abbreviations: a new option would break them
    "--epochs 0": "--epochs 0: must be 1 or more",
    "--train-samples 0": "--train-samples 0: must be 1 or more",
    "--test-samples -3": "--test-samples -3: must be 1 or more",
    "--batch-size 0": "--batch-size 0: must be 1 or more",
    "--threads 0": "--threads 0: must be 1 or more",
    "--temperature 0": "--temperature 0: must not be zero",
    "--temperature 1e-31": "--temperature 1e-31: must not be zero, nor nearly",
    "--schedule-floor -1e31": "--schedule-floor -1e+31: must be -1e+30 or more",
    "--precision float16": "unknown precision 'float16': choose from bfloat16, float32",
    "--stack 0": "--stack 0: must be 1 or more",
    "--stack 2 --engine sequential": "--stack: is for --engine batched, or auto",
    "--gpu-aware --transport device": "--gpu-aware: is for --transport mpi",
    "--transport tcp": "unknown transport 'tcp': choose from device, mpi",
    "--engine fast": "unknown engine 'fast': choose from auto, batched, sequential",
    "--temperature nan": "--temperature nan: must be finite",
    "--label-alpha 0": "--label-alpha 0.0: must be above 0",
    "--sample-alpha -1": "--sample-alpha -1.0: must be above 0",
    "--sample-alpha inf": "--sample-alpha inf: must be finite",
    "--lr 0": "--lr 0.0: must be above 0",
    "--lr much": "argument --lr: invalid float value: 'much'",
    "--momentum 1": "--momentum 1.0: must be below 1",
    "--momentum -0.1": "--momentum -0.1: must be 0 or more",
    "--weight-decay -1": "--weight-decay -1.0: must be 0 or more",
    "--betas 0.9": "argument --betas: expected 2 arguments",
    "--betas 0.9 1": "--betas 1.0: must be below 1",
    "--ood-fraction 0": "--ood-fraction 0.0: must be above 0",
    "--ood-fraction 1": "--ood-fraction 1.0: must be below 1",
    "--ood-node": "argument --ood-node: expected at least one argument",
    "--ood-node 3 -1": "--ood-node -1: must be 0 or more",
    "--ood-rank 0": "--ood-rank 0: must be 1 or more",
    "--ood-node 1 --ood-rank 2": "--ood-node and --ood-rank: give one of them",
    "--name a/b": "--name 'a/b': must be a plain file name; --output takes a path",
    "--name .": "--name '.': must be a plain file name",
    "--evaluate-at never": "unknown evaluate at 'never': choose from aggregated, both, trained",
    "--evaluate-every step": "unknown evaluate every 'step': choose from epoch, round",
    "--evaluate-every epoch --evaluate-at aggregated": "--evaluate-every epoch: tests trained models: take",
    "--overwrite": "--overwrite: needs --output, without it a run takes the next free name",
    "--strategy degre": "unknown strategy 'degre': choose from betweenness, ",
    "--normalize l2": "unknown normalize 'l2': choose from softmax, sum",
    "--dataset imagenet": "unknown dataset 'imagenet': choose from cifar10, cifar100, digits, fmnist, mnist",
    "--ood nose": "unknown ood 'nose': choose from blur, newclass, noise, none, trigger",
    "--model vgg": "unknown model 'vgg': choose from cnn, cnn-dropout, gpt2, gpt2-1layer, mlp",
    "--init both": "unknown init 'both': choose from common, independent",
    "--optimizer lbfgs": "unknown optimizer 'lbfgs': choose from adam, adamw, sgd",
    "--device tpu": "unknown device 'tpu': choose from auto, cpu, cuda, xpu",
    "--quiet yes": "unrecognized arguments: yes",
    "--colour red": "unrecognized arguments: --colour red",
}


@pytest.mark.parametrize("arguments, message", WRONG_FLAGS.items())
def test_a_wrong_flag_is_one_line_that_names_it(arguments, message):
    with pytest.raises(InputError) as raised:
        parse_config(arguments.split())
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["-5", "-1e1", "-1E+1", "-.5", "-2.5e-3"])
def test_a_negative_number_in_any_notation_is_a_value(text):
    assert parse_config(["--schedule-floor", text]).schedule_floor == float(text)


def test_an_empty_name_is_refused():
    with pytest.raises(InputError, match="--name"):
        parse_config(["--name", ""])


WRONG_TOML = {
    "rounds = 1.5": "--rounds 1.5: must be an integer",
    'rounds = "3"': "--rounds '3': must be an integer",
    "rounds = true": "--rounds True: must be an integer",
    "seed = 9223372036854775808": "--seed 9223372036854775808: is too large",
    "lr = true": "--lr True: must be a number",
    "lr = [0.1]": "--lr [0.1]: must be a number",
    "lr = nan": "--lr nan: must be finite",
    "quiet = 1": "--quiet 1: must be true or false",
    "dataset = 3": "--dataset 3: must be text",
    "betas = 0.9": "--betas 0.9: takes 2 values",
    "betas = [0.5, 0.6, 0.7]": "--betas [0.5, 0.6, 0.7]: takes 2 values",
    "betas = [0.5, 'x']": "--betas 'x': must be a number",
    "ood_node = [1, -1]": "--ood-node -1: must be 0 or more",
    "no_download = 'no'": "--no-download 'no': must be true or false",
    "strategy = '''a\nb'''": "unknown strategy 'a\\nb': choose from",
    "colour = 1": "{path}: unknown key 'colour': the keys are the flags with underscores",
    "batch-size = 4": "{path}: unknown key 'batch-size': the keys are the flags with underscores",
    "config = 'other.toml'": "{path}: unknown key 'config'",
    "[learning]\nlr = 1": "{path}: unknown key 'learning'",
    "rounds = = 3": "{path}: cannot be read as TOML: ",
    "rounds = 3\nrounds = 4": "{path}: cannot be read as TOML: ",
}


@pytest.mark.parametrize("text, message", WRONG_TOML.items())
def test_a_wrong_toml_key_is_one_line_that_names_it(tmp_path, parse_toml, text, message):
    with pytest.raises(InputError) as raised:
        parse_toml(text)
    assert str(raised.value).startswith(message.format(path=tmp_path / "options.toml"))
    assert "\n" not in str(raised.value)


def test_an_empty_list_is_refused_in_words(parse_toml):
    with pytest.raises(InputError, match=r"--ood-node \[\]: takes (?!\+)"):
        parse_toml("ood_node = []")


def test_an_integer_beyond_all_floats_is_refused(parse_toml):
    with pytest.raises(InputError, match="--lr"):
        parse_toml("lr = 1" + 400 * "0")


def test_a_toml_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "options.toml"
    for make, message in (
        (lambda: None, "no such file"),
        (lambda: path.write_bytes(b"name = '\xff'"), "cannot be read as TOML: "),
        (lambda: (path.unlink(), path.mkdir()), "is a folder: name a plain file"),
    ):
        make()
        with pytest.raises(InputError) as raised:
            parse_config(["--config", str(path)])
        assert str(raised.value).startswith(f"{path}: {message}")
        assert "\n" not in str(raised.value)


REFUSED_BESIDE_OTHERS = ("ood_rank", "gpu_aware", "resume", "dry_run")


@pytest.mark.parametrize("names", [[], [name for name in GIVEN if name not in REFUSED_BESIDE_OTHERS]])
def test_a_config_survives_json(names):
    options = Config(**{name: GIVEN[name][2] for name in names})
    assert Config(**json.loads(json.dumps(options.as_dict()))) == options


def test_help_names_every_flag_and_ends_with_code_0(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_config(["--help"])
    assert stopped.value.code == 0
    words = set(capsys.readouterr().out.replace(",", " ").split())
    assert {"--help", "--config", *map(flag, GIVEN)} <= words


@pytest.mark.parametrize("arguments", ["", "--dataset mnist --strategy random --device cuda", "--rounds 0", "--help"])
def test_options_are_read_without_torch_or_mpi(arguments):
    script = """
import sys
from mpisim.arguments import parse_config
try:
    parse_config(sys.argv[1:])
except (SystemExit, ValueError):
    pass
print({"torch", "mpi4py", "networkx", "scipy"} & set(sys.modules))
"""
    command = [sys.executable, "-c", script, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
