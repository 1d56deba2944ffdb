"""Sweep files: what comes of them against itertools by hand, names, the study's 3,780 runs, and what is wrong input."""

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.arguments import parse_config
from mpisim.config import Config
from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology
from mpisim.sweep.__main__ import main
from mpisim.sweep.expansion import count_nodes, expand
from mpisim.sweep.file import read_sweep
from mpisim.sweep.names import LONGEST, run_name

EXPERIMENTS = Path(__file__).parents[1] / "jobs" / "experiments"


@pytest.fixture
def runs_of(tmp_path, monkeypatch):
    """Return a function from the text of a sweep file to its runs."""
    monkeypatch.chdir(tmp_path)

    def expanded(text):
        Path("s.toml").write_text(text)
        return expand(read_sweep(Path("s.toml")))

    return expanded


def options_of(runs):
    return [run.options for run in runs]


# Crossing and rules.

GRID = """
[base]
rounds = 3
[grid]
strategy = ["fl", "degree", "random"]
ood_rank = [1, 4]
seed = [0, 1]
"""
CROSSED = [
    {"rounds": 3, "strategy": strategy, "ood_rank": rank, "seed": seed}
    for strategy, rank, seed in itertools.product(["fl", "degree", "random"], [1, 4], [0, 1])
]


def test_every_value_meets_every_other_and_the_last_list_changes_fastest(runs_of):
    runs = runs_of(GRID)
    assert options_of(runs) == CROSSED
    assert [run.index for run in runs] == list(range(12))
    assert [run.config for run in runs] == [Config(**options) for options in CROSSED]


@pytest.mark.parametrize(
    "rules, stays",
    [
        ('[[exclude]]\nstrategy = "fl"\nood_rank = 4', lambda o: not (o["strategy"] == "fl" and o["ood_rank"] == 4)),
        ('[[exclude]]\nstrategy = ["fl", "random"]', lambda o: o["strategy"] == "degree"),
        ("[[exclude]]\nseed = 0\n[[exclude]]\nood_rank = 1", lambda o: o["seed"] == 1 and o["ood_rank"] == 4),
        ("[[only]]\nseed = 1", lambda o: o["seed"] == 1),
        ('[[only]]\nseed = 1\n[[only]]\nstrategy = "fl"', lambda o: o["seed"] == 1 or o["strategy"] == "fl"),
        ('[[only]]\nseed = 1\n[[exclude]]\nood_rank = 1', lambda o: o["seed"] == 1 and o["ood_rank"] == 4),
        ("[[exclude]]\nrounds = 3\nseed = 0", lambda o: o["seed"] == 1),  # of the base
        ('[[exclude]]\ndataset = "digits"\nseed = 0', lambda o: o["seed"] == 1),  # of no table: the default
    ],
)  # fmt: skip
def test_rules_leave_out_what_they_are_about(runs_of, rules, stays):
    assert options_of(runs_of(GRID + rules)) == [options for options in CROSSED if stays(options)]


def test_options_follow_from_others_and_the_later_rule_wins(runs_of):
    rules = """
    [[exclude]]
    seed = 0
    [[set]]
    when = { strategy = ["fl", "random"] }
    rounds = 5
    lr = 0.5
    [[set]]
    when = { rounds = 5, ood_rank = 4 }
    rounds = 7
    """
    wanted = {
        (strategy, rank): {} if strategy == "degree" else {"rounds": 5 if rank == 1 else 7, "lr": 0.5}
        for strategy in ("fl", "degree", "random")
        for rank in (1, 4)
    }
    assert options_of(runs_of(GRID + rules)) == [
        options | wanted[options["strategy"], options["ood_rank"]] for options in CROSSED if options["seed"] == 1
    ]


def test_the_readmes_example_has_the_runs_that_it_says(runs_of):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    example = readme.partition("## Many runs")[2].partition("```toml\n")[2].partition("```")[0]
    runs = runs_of(example)
    found = {(run.config.strategy, run.config.ood_rank, run.config.seed) for run in runs}
    of_two_seeds = itertools.chain(
        itertools.product(["unweighted", "degree"], [1, 4], [0, 1]), itertools.product(["fl"], [1], [0, 1])
    )
    assert found == {*of_two_seeds, ("degree", 1, 2), ("degree", 4, 2)}
    assert f"18 runs, of which the rules leave {len(runs)}\n" in example
    for run in runs:
        assert run.config.topology == f"ba:n=33,m=2,seed={run.config.seed}"
        assert run.config.temperature == (0.2 if (run.config.strategy, run.config.ood_rank) == ("degree", 4) else 0.1)


def test_options_that_go_together_are_crossed_as_one(runs_of):
    runs = runs_of("""
    [base]
    ood_rank = 2
    [grid]
    seed = [0, 1]
    start = [{ init = "common", rounds = 2 }, { init = "independent", ood_rank = 3 }]
    """)
    assert options_of(runs) == [
        {"ood_rank": 2, "seed": 0, "init": "common", "rounds": 2},
        {"ood_rank": 3, "seed": 0, "init": "independent"},
        {"ood_rank": 2, "seed": 1, "init": "common", "rounds": 2},
        {"ood_rank": 3, "seed": 1, "init": "independent"},
    ]


def test_an_option_of_several_numbers_is_one_value(runs_of):
    [first, second] = runs_of("""
    [base]
    betas = [0.8, 0.9]
    [grid]
    ood_node = [[3], [3, 5]]
    [[set]]
    when = { ood_node = [[3, 5]] }
    rounds = 2
    """)
    assert (first.config.ood_node, first.config.rounds, first.config.betas) == ((3,), Config.rounds, (0.8, 0.9))
    assert (second.config.ood_node, second.config.rounds) == ((3, 5), 2)


def test_a_text_names_other_options(runs_of):
    runs = runs_of("""
    [base]
    topology = "ba:n=9,m=2,seed={seed}"
    [grid]
    dataset = ["digits", "tinymem"]
    seed = [0, 7]
    [[set]]
    when = { topology = "ba:n=9,m=2,seed={seed}", dataset = "tinymem" }
    data_dir = "{dataset}/{temperature}"
    """)
    assert [(run.config.topology, run.config.data_dir) for run in runs] == [
        ("ba:n=9,m=2,seed=0", "data"),
        ("ba:n=9,m=2,seed=7", "data"),
        ("ba:n=9,m=2,seed=0", "tinymem/0.1"),
        ("ba:n=9,m=2,seed=7", "tinymem/0.1"),
    ]


VALUES = {
    "seed": st.integers(0, 99),
    "ood_rank": st.integers(1, 9),
    "strategy": st.sampled_from(["fl", "degree", "random", "none"]),
    "temperature": st.sampled_from([-0.5, 0.1, 0.25, 2.0]),
    "shuffle": st.booleans(),
    "betas": st.sampled_from([[0.5, 0.9], [0.9, 0.999]]),
    "lr": st.sampled_from([1e-5, 0.1, 1.0]),
    "no_download": st.booleans(),
    "data_dir": st.sampled_from(["-a", "b c", "'é\""]),
}


@given(st.data())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_the_flags_of_a_run_mean_its_options(data):
    from mpisim.sweep.expansion import Run

    options = {name: data.draw(values, label=name) for name, values in VALUES.items() if data.draw(st.booleans())}
    run = Run(0, "run", {}, options, Config(**options))
    assert parse_config(run.flags()) == run.config


# Names.


def test_names_say_what_distinguishes_runs_and_nothing_else(runs_of):
    runs = runs_of("""
    [base]
    rounds = 3
    [grid]
    seed = [0, 10]
    temperature = [0.1, -2.0]
    strategy = ["degree-similarity"]
    shuffle = [true, false]
    topology = ["ba:n=33,m=2,seed={seed}", "topologies/paper/ws-n8-k4-p0.5-seed{seed}.txt", "a_b/my ring.graphml"]
    label_alpha = [1000]
    [[set]]
    when = { temperature = -2.0 }
    rounds = 5
    """)
    topologies = ["ba-n33-m2", "ws-n8-k4-p0.5", "my-ring"]
    assert sorted(run.name for run in runs) == sorted(
        f"{topology}_degree-similarity_temperature{temperature}_label-alpha1000_{shuffle}_seed{seed}"
        for topology in topologies
        for temperature in ("0.1", "-2")
        for shuffle in ("shuffle", "no-shuffle")
        for seed in (0, 10)
    )


def test_of_options_that_go_together_a_name_has_as_few_as_tell_them_apart(runs_of):
    runs = runs_of("""
    [grid]
    recipe = [
        { rounds = 2, strategy = "degree", lr = 0.1 },
        { lr = 0.2, strategy = "degree", rounds = 3 },
        { rounds = 2, strategy = "fl", lr = 0.1 },
    ]
    other = [{ batch_size = 4 }, { weight_decay = 1.0 }]
    """)
    assert [run.name for run in runs] == [
        f"{recipe}_{other}"
        for recipe in ("degree_rounds2", "degree_rounds3", "fl_rounds2")
        for other in ("batch-size4", "weight-decay1")
    ]


AXES = {
    "strategy": '["fl", "degree"]',
    "seed": "[0, 1]",
    "ood_rank": "[1, 4]",
    "start": '[{ init = "common" }, { rounds = 9, init = "independent" }]',
}


@given(st.permutations(list(AXES)), st.permutations(["rounds = 3", "epochs = 1"]), st.booleans())
@settings(max_examples=20, derandomize=True, deadline=None)
def test_names_do_not_depend_on_the_order_of_keys(tmp_path_factory, axes, base, base_first):
    path = tmp_path_factory.mktemp("sweep") / "s.toml"
    tables = ["\n".join(["[base]", *base]), "\n".join(["[grid]", *(f"{axis} = {AXES[axis]}" for axis in axes)])]
    path.write_text("\n".join(tables if base_first else tables[::-1]))
    named = {run.name: run.config for run in expand(read_sweep(path))}
    assert named == {
        f"{strategy}_{init}_ood-rank{rank}_seed{seed}": Config(
            strategy=strategy, seed=seed, ood_rank=rank, init=init, rounds=3 if init == "common" else 9, epochs=1
        )
        for strategy in ("fl", "degree")
        for seed in (0, 1)
        for rank in (1, 4)
        for init in ("common", "independent")
    }


def test_more_values_leave_the_names_of_the_others_as_they_were(runs_of):
    before = {run.name: run.config for run in runs_of('[grid]\nstrategy = ["fl"]\nseed = [0]\n')}
    after = {run.name: run.config for run in runs_of('[grid]\nstrategy = ["fl", "none"]\nseed = [2, 0, 1]\n')}
    assert before.items() <= after.items()
    assert len(after) == 6


def test_no_run_is_without_a_name_or_hidden(runs_of):
    runs = runs_of('[grid]\ntopology = ["é.txt", "graphs/.x.txt", "-y-.npy", "ring:n=3"]\n')
    assert [run.name for run in runs] == ["topology", "x", "y", "ring-n3"]


def test_a_name_that_is_too_long_is_cut_and_told_apart_by_its_end():
    names = {run_name(["a" * 200, end]) for end in "xyz"}
    assert len(names) == 3
    assert {len(name) for name in names} == {LONGEST}


# The study's files.


def runs_in(name):
    return expand(read_sweep(EXPERIMENTS / name))


@pytest.fixture(scope="module")
def paper():
    return runs_in("paper.toml")


def graph(specification):
    return specification.rpartition(",seed=")[0]


def test_the_paper_has_its_3780_runs(paper):
    assert len(paper) == len({run.name.casefold() for run in paper}) == 3780
    assert Counter(run.config.dataset for run in paper) == dict.fromkeys(
        ["mnist", "fmnist", "cifar10", "cifar100", "tinymem"], 756
    )
    others = ["unweighted", "weighted", "random", "degree", "betweenness"]
    assert Counter(run.config.strategy for run in paper) == dict.fromkeys(others, 720) | {"fl": 180}
    assert Counter(run.config.seed for run in paper) == {0: 1260, 1: 1260, 2: 1260}
    assert Counter(run.config.ood_rank for run in paper) == {1: 1080, 2: 900, 3: 900, 4: 900}
    graphs = [
        *(f"ba:n=33,m={m}" for m in (1, 2, 3)),
        *(f"ba:n={n},m=2" for n in (8, 16, 64)),
        *(f"ws:n={n},k=4,p=0.5" for n in (8, 16, 33)),
        *(f"sb:sizes=11-11-11,p_in=0.5,p_out={p}" for p in ("0.009", "0.05", "0.09")),
    ]
    assert Counter(graph(run.config.topology) for run in paper) == dict.fromkeys(graphs, 315)
    assert all(run.config.topology.endswith(f",seed={run.config.seed}") for run in paper)
    # Each cell once: FL without regard to where the OOD samples are.
    cells = Counter(
        (run.config.dataset, run.config.topology, run.config.strategy, run.config.ood_rank) for run in paper
    )
    assert set(cells.values()) == {1}
    assert {run.config.ood_rank for run in paper if run.config.strategy == "fl"} == {1}


def test_the_paper_trains_as_the_study_did(paper):
    recipes = {
        "mnist": ("mlp", "sgd", 0.01),
        "fmnist": ("mlp", "sgd", 0.01),
        "cifar10": ("vgg16", "adam", 1e-4),
        "cifar100": ("vgg16", "adam", 1e-4),
        "tinymem": ("gpt2", "adam", 1e-3),
    }
    for run in paper:
        config = run.config
        assert (config.model, config.optimizer, config.lr) == recipes[config.dataset]
        assert (config.rounds, config.epochs, config.batch_size) == (40, 5, 64)
        assert (config.init, config.evaluate_every, config.temperature) == ("independent", "epoch", 0.1)
        assert (config.weight_decay, config.shuffle, config.keep_optimizer_state) == (0.0, False, False)
        assert (config.normalize, config.schedule, config.evaluate_at) == ("softmax", "constant", "trained")
        assert (config.participation, config.link_dropout, config.proximal) == (1.0, 0.0, 0.0)
        assert (config.label_alpha, config.sample_alpha, config.ood, config.ood_fraction) == (
            1000.0,
            1000.0,
            "trigger",
            0.1,
        )


def test_the_papers_names_stay_what_they_are(paper):
    assert [paper[index].name for index in (0, 5, 3779)] == [
        "mnist_ba-n33-m1_fl_ood-rank1_seed0",
        "mnist_ba-n33-m1_unweighted_ood-rank1_seed2",
        "tinymem_sb-sizes11-11-11-pin0.5-pout0.09_betweenness_ood-rank4_seed2",
    ]


NODES = {"ba:n=33": 33, "ba:n=8": 8, "ba:n=16": 16, "ba:n=64": 64, "ws:n=8": 8, "ws:n=16": 16, "ws:n=33": 33, "sb": 33}


def test_every_graph_of_the_paper_can_be_made(paper):
    specifications = sorted({run.config.topology for run in paper})
    assert len(specifications) == 36
    for specification in specifications:
        start = specification.split(",")[0] if not specification.startswith("sb") else "sb"
        assert make_topology(specification).num_nodes == NODES[start]


@pytest.mark.parametrize(
    "name, counts",
    [
        (
            "label-skew.toml",
            {
                "dataset": dict.fromkeys(["mnist", "fmnist", "cifar10", "cifar100", "tinymem"], 72),
                "label_alpha": {1.0: 120, 10.0: 120, 1000.0: 120},
                "ood": {"none": 360},
                "seed": {0: 120, 1: 120, 2: 120},
            },
        ),
        # 19 temperatures for two strategies and one for the two others, at two places
        (
            "temperature.toml",
            {
                "dataset": dict.fromkeys(["mnist", "cifar10", "tinymem"], (2 * 19 + 2) * 2 * 3),
                "strategy": {"degree": 342, "betweenness": 342, "degree-similarity": 18, "betweenness-similarity": 18},
                "schedule": {"constant": 36 * 6 + 36, "cosine": 36 * 9, "oscillate": 36 * 3, "exponential": 36},
            },
        ),
        (
            "timing.toml",
            {
                "dataset": {"mnist": 4, "cifar10": 4, "tinymem": 4},
                "topology": {f"ba:n={n},m=3,seed=0": 3 for n in (8, 16, 33, 64)},
                "strategy": {"unweighted": 12},
                "rounds": {2: 12},
            },
        ),
        # Two places and FL once: 11 cells of strategy and place; digits 3 graphs × 2 starts, mnist 2 starts, tinymem 1
        (
            "paper-small.toml",
            {
                "dataset": {"digits": 11 * 3 * 2 * 3, "mnist": 11 * 2 * 3, "tinymem": 11 * 3},
                "strategy": dict.fromkeys(["unweighted", "weighted", "random", "degree", "betweenness"], 54)
                | {"fl": 27},
                "ood_rank": {1: 162, 4: 135},
                "init": {"common": 165, "independent": 132},
                "seed": {0: 99, 1: 99, 2: 99},
            },
        ),
    ],
)
def test_other_studies_have_the_runs_that_they_say(name, counts):
    runs = runs_in(name)
    for option, wanted in counts.items():
        assert Counter(getattr(run.config, option) for run in runs) == wanted, option
    assert f"{len(runs)} runs" in (EXPERIMENTS / name).read_text()


@pytest.mark.parametrize("name", ["paper.toml", "temperature.toml", "paper-small.toml"])
def test_the_flags_of_the_studies_runs_mean_their_options(name):
    for run in runs_in(name)[::97]:
        assert parse_config(run.flags()) == run.config


# The command.


def test_list_has_a_line_for_each_run_and_counts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(GRID + '[[exclude]]\nstrategy = "fl"\nood_rank = 4\n')
    assert main(["s.toml", "--list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    runs, counts = printed[:10], printed[10:]
    assert [line.split()[:2] for line in runs][:3] == [
        ["0", "fl_ood-rank1_seed0"],
        ["1", "fl_ood-rank1_seed1"],
        ["2", "degree_ood-rank1_seed0"],
    ]
    assert runs[9].endswith("--rounds=3 --strategy=random --ood-rank=4 --seed=1")
    assert counts == [
        "# 10 runs",
        "# strategy: fl 2, degree 4, random 4",
        "# ood_rank: ood-rank1 6, ood-rank4 4",
        "# seed: seed0 5, seed1 5",
    ]
    assert main(["s.toml", "--list", "--index", "9"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [runs[9], "# 1 run"]
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


def test_list_of_the_paper_needs_neither_torch_nor_mpi_and_stops_with_its_reader():
    program = (
        "import sys\n"
        "from mpisim.sweep.__main__ import main\n"
        f"code = main([{str(EXPERIMENTS / 'paper.toml')!r}, '--list'])\n"
        "print(code, sorted({'torch', 'mpi4py', 'h5py', 'parsl'} & set(sys.modules)), file=sys.stderr)\n"
    )
    listing = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert listing.stderr == "0 []\n"
    assert len([line for line in listing.stdout.splitlines() if not line.startswith("#")]) == 3780
    head = subprocess.run(
        f'"{sys.executable}" -m mpisim.sweep "{EXPERIMENTS / "paper.toml"}" --list | head -n 1',
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert head.stdout.split()[:2] == ["0", "mnist_ba-n33-m1_fl_ood-rank1_seed0"]
    assert head.stderr == ""


WRONG = {
    "no TOML": ("[base\n", "s.toml: cannot be read as TOML: "),
    "not text": (b"\xff\xfe", "s.toml: cannot be read as TOML: "),
    "unknown key": ("[gird]\nseed = [0]\n", "s.toml: unknown key 'gird': a sweep file has [base], [grid], "),
    "base no table": ('base = 3\n[grid]\nseed = [0]', "s.toml: [base] must be a table, not 3"),
    "no grid": ("[base]\nseed = 0\n", "s.toml: [grid] has no lists: there is nothing to cross"),
    "empty grid": ("[grid]\n", "s.toml: [grid] has no lists: there is nothing to cross"),
    "empty list": ("[grid]\nseed = []\n", "s.toml: [grid]: seed is an empty list: no run would come of it"),
    "no list": ("[grid]\nseed = 3\n", "s.toml: [grid]: seed must be a list, not 3: what all runs have stands in "),
    "unknown option": ("[grid]\nsead = [0]\n", "s.toml: [grid]: unknown option 'sead': options are the flags of "),
    "unknown option of the base": ("[base]\nx = 1\n[grid]\nseed = [0]", "s.toml: [base]: unknown option 'x': "),
    "unknown option of a table": ("[grid]\na = [{ b = 1 }]\n", "s.toml: [grid]: a: unknown option 'b': "),
    "unknown option of a rule": ("[grid]\nseed = [0]\n[[only]]\nb = 1\n", "s.toml: [[only]] 1: unknown option 'b': "),
    "mixed list": ("[grid]\na = [{ seed = 1 }, 2]\n", "s.toml: [grid]: a: 2 is no table of options, unlike others of"),
    "option twice": (
        "[grid]\nseed = [0]\na = [{ seed = 1 }]\n",
        "s.toml: [grid]: seed is in seed and in a: a run can have it once",
    ),
    "the sweep's own": ('[base]\noutput = "x"\n[grid]\nseed = [0]\n', "s.toml: [base]: output is for the sweep itself"),
    "exclude no table": ("exclude = 3\n[grid]\nseed = [0]\n", "s.toml: exclude must be tables under [[exclude]]"),
    "empty rule": ("[grid]\nseed = [0]\n[[exclude]]\n", "s.toml: [[exclude]] 1 lacks options: it must say which runs "),
    "rule of no run": (
        "[grid]\nseed = [0, 1]\n[[only]]\nseed = 0\n[[only]]\nseed = [2, 3]\n",
        "s.toml: [[only]] 2 is about no run: none has seed = [2, 3]",
    ),
    "true is not 1": (
        "[grid]\nshuffle = [true]\n[[only]]\nshuffle = 1\n",
        "s.toml: [[only]] 1 is about no run: none has shuffle = 1",
    ),
    "set of no run": (
        "[grid]\nseed = [0, 1]\n[[exclude]]\nseed = 0\n[[set]]\nwhen = { seed = 0 }\nlr = 1\n",
        "s.toml: [[set]] 1 is about no run: none has seed = 0",
    ),
    "set without when": ("[grid]\nseed = [0]\n[[set]]\nlr = 1\n", "s.toml: [[set]] 1 lacks when = { ... }: it must"),
    "set of nothing": ("[grid]\nseed = [0]\n[[set]]\nwhen = { seed = 0 }\n", "s.toml: [[set]] 1 gives no option"),
    "set of the grid's": (
        "[grid]\nseed = [0]\n[[set]]\nwhen = { seed = 0 }\nseed = 1\n",
        "s.toml: [[set]] 1: seed is in [grid], whose values name the runs: it stays as it is",
    ),
    "no run is left": ("[grid]\nseed = [0]\n[[exclude]]\nseed = 0\n", "s.toml: the rules leave no run of the grid"),
    "equal runs": ("[grid]\nseed = [0, 1, 0]\n", "s.toml: runs seed0 and seed0 have the same options: "),
    "equal runs by default": (
        "[grid]\nstart = [{ lr = 0.1 }, { batch_size = 16 }]\n",
        "s.toml: runs lr0.1 and batch-size16 have the same options: one of them is too much",
    ),
    "equal names": (
        '[grid]\ntopology = ["a/x.txt", "b/x.txt"]\n',
        "s.toml: two runs have the name x: they differ in topology alone",
    ),
    "names that some file systems do not tell apart": (
        '[grid]\ntopology = ["A.txt", "a.txt"]\n',
        "s.toml: two runs have the name a: they differ in topology alone",
    ),
    "wrong value": (
        '[grid]\nseed = [0]\nstrategy = ["fl", "degre"]\n',
        "s.toml: run degre_seed0: unknown strategy 'degre': choose from ",
    ),
    "wrong value of a rule": (
        "[grid]\nseed = [0, 1]\n[[set]]\nwhen = { seed = 1 }\nlr = -1\n",
        "s.toml: run seed1: --lr -1.0: must be above 0",
    ),
    "unknown topology": (
        '[grid]\ntopology = ["bx:n=4", "ba:n=0,m=2"]\n',
        "s.toml: run bx-n4: unknown topology 'bx:n=4': give a file ",
    ),
    "topology that cannot be": (
        '[grid]\nseed = [0, 1]\ntopology = ["ring:n=4", "ba:n=4,m={seed},seed={seed}"]\n',
        "s.toml: run ba-n4_seed0: topology 'ba:n=4,m=0,seed=0': ",
    ),
    "no such rank": (
        '[grid]\nseed = [0]\nood_rank = [4, 9]\ntopology = ["ring:n=4"]\n',
        "s.toml: run ring-n4_ood-rank9_seed0: --ood-rank 9: ring:n=4 has 4 nodes",
    ),
    "no such node": (
        "[grid]\nseed = [0]\nood_node = [[0, 23], [24]]\n",
        "s.toml: run ood-node24_seed0: --ood-node 24: ba:n=24,m=2,seed=0 has the nodes 0…23",
    ),
    "an OOD node of none": (
        '[base]\nood = "none"\n[grid]\nood_rank = [1, 2]\n',
        "s.toml: run ood-rank1: --ood-node and --ood-rank: no node is out of distribution with --ood none",
    ),
    "wrong type": ('[grid]\nseed = ["a"]\n', "s.toml: run seed-a: --seed 'a': must be an integer"),
    "unknown name in a text": (
        '[grid]\nseed = [0]\ntopology = ["ring:n={nodes}"]\n',
        "s.toml: run ring_seed0: {nodes} is no option",
    ),
    "a text that names itself": (
        '[grid]\ntopology = ["ring:n={topology}"]\n',
        "s.toml: run ring: {topology} has no value to put into a text",
    ),
}  # fmt: skip


def test_each_topology_of_the_paper_is_looked_at_once(monkeypatch):
    made = []
    monkeypatch.setattr("mpisim.sweep.expansion.make_topology", lambda text: made.append(text) or make_topology(text))
    runs = expand(read_sweep(EXPERIMENTS / "paper.toml"))
    assert len(runs) == 3_780
    assert len(made) == len(set(made)) == 12 * 3  # each is drawn with three seeds


def test_a_topology_of_a_file_is_looked_at_if_it_is_there(runs_of):
    text = '[grid]\ntopology = ["later.txt", "ring:n=5"]\n'
    assert count_nodes(runs_of(text)) == {"ring:n=5": 5}
    Path("later.txt").write_text("0 1 1\n1 0 1\n1 1 0\n")
    assert count_nodes(runs_of(text)) == {"later.txt": 3, "ring:n=5": 5}
    Path("later.txt").write_text("0 1 1\n1 0 1\n")
    with pytest.raises(InputError, match=r"s.toml: run later: later.txt: .*must be square"):
        runs_of(text)


@pytest.mark.parametrize("what", ["--list", "--status", "--run"])
@pytest.mark.parametrize("text, line", WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, what, text, line):
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["s.toml", what]) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith(f"mpisim: {line}")
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["none.toml", "--list"], "none.toml: no such file"),
        ([".", "--list"], ".: cannot be read as TOML: "),
        (["s.toml"], "one of the arguments --list --status --estimate --run is required"),
        (["s.toml", "--list", "--run"], "argument --run: not allowed with argument --list"),
        (["s.toml", "--run", "--index", "2"], "--index 2: the sweep has the runs 0 to 1"),
        (["s.toml", "--run", "--index", "-1"], "--index -1: the sweep has the runs 0 to 1"),
        (["s.toml", "--run", "--ranks", "0"], "argument --ranks: invalid number of at least 1 value: '0'"),
        (["s.toml", "--run", "--jobs", "x"], "argument --jobs: invalid number of at least 1 value: 'x'"),
        (["s.toml", "--run", "--walltime", "0"], "--walltime 0: must be above 0, and finite"),
        (["s.toml", "--run", "--walltime", "nan"], "--walltime nan: must be above 0, and finite"),
        (["s.toml", "--run", "--machine", "aurora"], "--machine aurora: is for --executor parsl"),
        (["s.toml", "--run", "--executor", "parsl", "--launcher", "x"], "--launcher: is for --executor local: "),
        (["s.toml", "--run", "--launcher", "no-such-mpiexec -n {ranks}"], "no-such-mpiexec is not on PATH: "),
        (["s.toml", "--run", "--launcher", "'"], '--launcher "\'": No closing quotation'),
        (["s.toml", "--run", "--launcher", " "], "--launcher is not on PATH: "),
        (["s.toml", "--run", "--output-dir", "s.toml"], "--output-dir s.toml: is not a folder"),
        (["s.toml", "--status", "--output-dir", "s.toml/x"], "--output-dir s.toml/x: cannot be read: Not a directory"),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text("[grid]\nseed = [0, 1]\n")
    assert main(arguments) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith(f"mpisim: {line}")
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]
