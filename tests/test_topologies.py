"""``topologies/`` is what its script writes, its files are the generators' graphs, and its tables are right."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import networkx as nx
import numpy as np
import pytest

from mpisim.graphs.files import FILE_KINDS, read_topology
from mpisim.graphs.generators import GENERATORS, make_topology
from mpisim.graphs.strategies import mixing_matrix
from mpisim.graphs.topology import Topology, topology_from_edges

FOLDER = Path(__file__).parents[1] / "topologies"
PAPER = [
    *(
        f"ba-n{n}-m{m}-seed{seed}"
        for n, m in [(33, 1), (33, 2), (33, 3), (8, 2), (16, 2), (64, 2)]
        for seed in range(3)
    ),
    *(f"ws-n{n}-k4-p0.5-seed{seed}" for n in (8, 16, 33) for seed in range(3)),
    *(f"sb-3x11-pout{p}-seed{seed}" for p in ("0.009", "0.05", "0.09") for seed in range(3)),
]
SAMPLES = [path.name for path in sorted((FOLDER / "samples").iterdir())]
FAILING = "failing-links-n6.edgelist"


def content(folder: Path) -> dict[str, bytes]:
    files = [folder / "README.md", *(folder / "paper").iterdir(), *(folder / "samples").iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def import_make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make


@pytest.fixture(scope="module")
def readme() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def table_row(readme: str, file: str) -> list[str]:
    """Return a graph's row of the README: everything but its name."""
    [line] = [line for line in readme.splitlines() if f"]({file}) | " in line and line.count(" | ") == 10]
    return line.strip("| ").split(" | ")[1:]


def spec_of(name: str) -> str:
    """Return the specification that a name stands for: ``ba-n33-m2-seed0`` is ``ba:n=33,m=2,seed=0``."""
    family, *words = name.split("-")
    known = {"3x11": "sizes=11-11-11,p_in=0.5"}
    pairs = [known.get(word) or "=".join(re.fullmatch(r"([a-z]+)(.+)", word).groups()) for word in words]
    return f"{family}:{','.join(pairs).replace('pout', 'p_out')}"


def test_the_script_writes_what_the_repository_holds(tmp_path: Path) -> None:
    import_make().main(tmp_path)
    assert content(tmp_path) == content(FOLDER)


def test_the_script_writes_the_same_bytes_in_another_process_and_over_its_own_files(tmp_path: Path) -> None:
    command = f"import runpy; from pathlib import Path; runpy.run_path({str(FOLDER / 'make.py')!r})['main'](Path('.'))"
    for hash_seed in ("1", "2"):  # the order of sets of names differs
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", command], cwd=tmp_path, env=environment, check=True, timeout=120)
        assert content(tmp_path) == content(FOLDER)


def test_importing_the_script_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*.*") if path.suffix != ".pyc"}
    import_make()
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_papers_36_graphs_are_all_there() -> None:
    assert {path.name for path in (FOLDER / "paper").iterdir()} == {f"{name}.txt" for name in PAPER}
    assert len(PAPER) == 36


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_file_is_the_generators_own_graph(name: str) -> None:
    path = FOLDER / "paper" / f"{name}.txt"
    expected = make_topology(spec_of(name)).adjacency.toarray()
    np.testing.assert_array_equal(make_topology(str(path)).adjacency.toarray(), expected)
    np.testing.assert_array_equal(np.loadtxt(path), expected)
    assert path.read_text().startswith(f"# {spec_of(name)}\n")


@pytest.mark.parametrize("file", [file for file in SAMPLES if file != FAILING])
def test_a_sample_is_the_generators_own_graph(file: str) -> None:
    expected = make_topology(spec_of(Path(file).stem)).adjacency.toarray()
    np.testing.assert_array_equal(make_topology(str(FOLDER / "samples" / file)).adjacency.toarray(), expected)


def test_the_sample_with_links_that_fail_is_two_triangles() -> None:
    assert read_topology(FOLDER / "samples" / FAILING).adjacency.toarray().tolist() == [
        [0, 1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0.1, 0],
        [1, 1, 0, 0.5, 0, 0],
        [0, 0, 0.5, 0, 1, 1],
        [0, 0.1, 0, 1, 0, 1],
        [0, 0, 0, 1, 1, 0],
    ]


def test_there_is_a_sample_of_every_kind_of_file_and_the_readme_links_to_it(readme: str) -> None:
    linked = [path for path in re.findall(r"\]\((.*?)\)", readme) if path.startswith(("paper", "samples"))]
    assert all((FOLDER / path).is_file() for path in linked)
    assert {Path(path).suffix for path in linked if path.startswith("samples")} == set(FILE_KINDS)
    assert {Path(path).name for path in linked} == {f"{name}.txt" for name in PAPER} | set(SAMPLES)
    for kind in FILE_KINDS:
        assert f"\n| `{kind}` |" in readme


def test_the_readmes_examples_of_generators_are_all_there_is_and_make_graphs(readme: str) -> None:
    examples = re.findall(r"^\| `([a-z]+):(\S+)` \|", readme, flags=re.MULTILINE)
    assert sorted(name for name, _ in examples) == sorted(GENERATORS)
    for name, parameters in examples:
        given = dict(pair.split("=") for pair in parameters.split(","))
        assert set(given) == set(GENERATORS[name].parameters)
        expected = int(given["n"]) if "n" in given else sum(map(int, given["sizes"].split("-")))
        assert make_topology(f"{name}:{parameters}").num_nodes == expected


def mass_in_the_end(topology: Topology, strategy: str) -> np.ndarray:
    """Return what an equal mass of all nodes becomes after 2^60 rounds."""
    W = mixing_matrix(topology, strategy).toarray()
    for _ in range(60):
        W = W @ W
        W /= W.sum(axis=1, keepdims=True)  # rounding errors would double each time
    return W.mean(axis=0)


@pytest.mark.parametrize("file", [*(f"paper/{name}.txt" for name in PAPER), *(f"samples/{name}" for name in SAMPLES)])
def test_a_graphs_row_of_the_readme_is_right(file: str, readme: str) -> None:
    nodes, edges, degrees, modularity, diameter, gap, highest, *masses = table_row(readme, file)
    matrix = (read_topology(FOLDER / file).adjacency.toarray() > 0).astype(np.float64)
    graph = nx.from_numpy_array(matrix)
    degree = dict(graph.degree)
    assert (int(nodes), int(edges)) == (len(graph), graph.number_of_edges())
    assert degrees == f"{min(degree.values())}–{max(degree.values())}"
    assert diameter == (str(nx.diameter(graph)) if nx.is_connected(graph) else "-")

    communities = nx.community.greedy_modularity_communities(graph)
    inside = sum(matrix[np.ix_(list(each), list(each))].sum() for each in communities) / matrix.sum()
    by_chance = sum((sum(degree[node] for node in each) / matrix.sum()) ** 2 for each in communities)
    assert float(modularity) == pytest.approx(inside - by_chance, abs=6e-4)

    # W under Unweighted has the eigenvalues of this symmetric matrix.
    root = np.sqrt(matrix.sum(axis=1) + 1)
    eigenvalues = np.linalg.eigvalsh((matrix + np.eye(len(graph))) / root / root[:, None])
    assert float(gap) == pytest.approx(1 - np.sort(np.abs(eigenvalues))[-2], abs=6e-4)

    top = sorted(graph, key=lambda node: (-degree[node], node))[:4]
    assert highest == " ".join(map(str, top))
    topology = topology_from_edges(len(graph), np.argwhere(matrix))  # as if no edge failed
    for strategy, mass in zip(("unweighted", "degree", "betweenness"), masses, strict=True):
        expected = mass_in_the_end(topology, strategy)[top]
        np.testing.assert_allclose([float(each) for each in mass.split(" ")], expected, rtol=0, atol=6e-4)


def test_masses_of_the_study_are_in_the_readme(readme: str) -> None:
    *_, unweighted, degree, betweenness = table_row(readme, "paper/ba-n33-m2-seed0.txt")
    assert [each.split()[0] for each in (unweighted, degree, betweenness)] == ["0.096", "0.436", "0.411"]
    assert [each.split()[3] for each in (unweighted, degree, betweenness)] == ["0.051", "0.011", "0.008"]


def test_one_graph_of_the_paper_is_not_connected(readme: str) -> None:
    apart = [name for name in PAPER if table_row(readme, f"paper/{name}.txt")[4] == "-"]
    assert apart == ["sb-3x11-pout0.009-seed1"]
