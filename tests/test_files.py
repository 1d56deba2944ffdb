"""Files of every kind hold the graph that was written; a bad one is an error line that says what is wrong where."""

import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from mpisim.errors import InputError
from mpisim.graphs.files import FILE_KINDS, read_topology
from mpisim.graphs.topology import MAX_ENTRIES


def npy(matrix: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, matrix, **options)
    return buffer.getvalue()


def npz(matrix: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, matrix)
    return buffer.getvalue()


def npy_with(header: str, data: bytes = b"\0" * 64) -> bytes:
    """Return an .npy file with any header, right or wrong."""
    line = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + data


def npy_of_shape(shape: str) -> bytes:
    return npy_with(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}")


def graphml(body: str, start: str = '<?xml version="1.0" encoding="utf-8"?>') -> str:
    keys = (
        '<key id="probability" for="edge" attr.name="probability" attr.type="string"/>'
        '<key id="weight" for="edge" attr.name="weight" attr.type="double"/>'
    )
    return f'{start}<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{keys}{body}</graphml>'


def graph(body: str, direction: str = "undirected") -> str:
    return graphml(f'<graph edgedefault="{direction}">{body}</graph>')


def edge(first: int | str, second: int | str, key: str = "probability", value: str | None = None) -> str:
    data = "" if value is None else f'<data key="{key}">{value}</data>'
    return f'<edge source="{first}" target="{second}">{data}</edge>'


NODES = '<node id="0"/><node id="1"/>'
SYMMETRIC = np.array([[0, 1, 0], [1, 0, 0.5], [0, 0.5, 0]])


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# What is right.

WRITERS: dict[str, tuple[str, Callable[[Path, nx.Graph], None]]] = {
    "numpy text": (".txt", lambda path, graph: np.savetxt(path, nx.to_numpy_array(graph, weight="probability"))),
    "numpy text with commas": (
        ".txt",
        lambda path, graph: np.savetxt(
            path, nx.to_numpy_array(graph, weight="probability"), "%.17g", ",", header="hello"
        ),
    ),
    "numpy": (".npy", lambda path, graph: np.save(path, nx.to_numpy_array(graph, weight="probability"))),
    "networkx edge list": (
        ".edgelist",
        lambda path, graph: nx.write_weighted_edgelist(nx.Graph(loops(graph)), path),
    ),
    "networkx GraphML": (".graphml", lambda path, graph: nx.write_graphml_xml(graph, path)),
    "networkx GraphML, pretty": (".graphml", lambda path, graph: nx.write_graphml_xml(graph, path, prettyprint=True)),
}


def loops(graph: nx.Graph) -> nx.Graph:
    """Return the graph as an edge list can hold it: nodes without edges as loops."""
    result = nx.Graph()
    result.add_edges_from((node, node, {"weight": 1.0}) for node in nx.isolates(graph))
    result.add_edges_from(
        (first, second, {"weight": value}) for first, second, value in graph.edges(data="probability")
    )
    return result


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("num_edges", [0, 1, 12, 60])
def test_what_others_write_is_read_back_exactly(writer: str, num_edges: int, tmp_path: Path) -> None:
    graph = nx.gnm_random_graph(16, num_edges, seed=num_edges)
    rng = np.random.default_rng(num_edges)
    for _, _, attributes in graph.edges(data=True):
        attributes["probability"] = float(rng.choice([1.0, rng.random()]))
    suffix, write_graph = WRITERS[writer]
    path = tmp_path / f"graph{suffix}"
    write_graph(path, graph)
    topology = read_topology(path)
    np.testing.assert_array_equal(topology.adjacency.toarray(), nx.to_numpy_array(graph, weight="probability"))
    assert topology.source == str(path)


def test_every_kind_of_file_is_read_back() -> None:
    assert {suffix for suffix, _ in WRITERS.values()} == set(FILE_KINDS)


@pytest.mark.parametrize("dtype", ["?", "u1", "i4", ">i8", "f2", "f4", ">f8", "longdouble"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_matrix_may_have_any_type_of_number(dtype: str, order: str, tmp_path: Path) -> None:
    matrix = nx.to_numpy_array(nx.path_graph(5)).astype(dtype, order=order)
    topology = read_topology(write(tmp_path / "path.npy", npy(matrix)))
    np.testing.assert_array_equal(topology.adjacency.toarray(), nx.to_numpy_array(nx.path_graph(5)))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("one.txt", "0", [[0]]),
        ("loops.txt", "1 1\n1 1\n", [[0, 1], [1, 0]]),
        ("comments.txt", "# two nodes\n\n0, 0.5 # one edge\n0.5, 0\n\n", [[0, 0.5], [0.5, 0]]),
        ("one.edgelist", "0 0\n", [[0]]),
        ("both.edgelist", "0 1 0.5\n1 0 0.5\n", [[0, 0.5], [0.5, 0]]),
        ("loop.edgelist", "# a comment\n0 1\n2 2 # alone\n", [[0, 1, 0], [1, 0, 0], [0, 0, 0]]),
        ("data.edgelist", "0 1 {}\n", [[0, 1], [1, 0]]),
        ("never.edgelist", "0 1 0\n", [[0, 0], [0, 0]]),
        ("weight.graphml", graph(NODES + edge(0, 1, "weight", "0.5")), [[0, 0.5], [0.5, 0]]),
        (
            "both.graphml",
            graph(NODES + edge(0, 1, "weight", "7").replace("</edge>", '<data key="probability">0.5</data></edge>')),
            [[0, 0.5], [0.5, 0]],
        ),
        (
            "order.graphml",
            graph('<node id="2"/><node id="1"/><node id="0"/>' + edge(0, 1)),
            [[0, 1, 0], [1, 0, 0], [0, 0, 0]],
        ),
        (
            "names.graphml",
            graph('<node id="Rome"/><node id="Pisa"/><node id="Bari"/>' + edge("Bari", "Rome", value="0.5")),
            [[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]],
        ),
        ("superscripts.graphml", graph('<node id="²"/><node id="³"/>' + edge("²", "³")), [[0, 1], [1, 0]]),
    ],
)
def test_what_people_write_by_hand_is_read_as_they_mean_it(
    name: str, content: str, expected: list[list[float]], tmp_path: Path
) -> None:
    assert read_topology(write(tmp_path / name, content)).adjacency.toarray().tolist() == expected


# What is wrong.

BAD_TEXT = {
    "empty": ("", "is empty: an adjacency matrix needs at least one row"),
    "only comments": ("# nothing\n\n", "is empty: an adjacency matrix needs at least one row"),
    "not square": ("0 1 0\n1 0 0\n", r"has the shape \(2, 3\): an adjacency matrix must be square"),
    "ragged": ("0 1\n1\n", "row 2 has 1 value, row 1 has 2 values: an adjacency matrix must be square"),
    "not symmetric": ("0 1\n0 0\n", "is not symmetric: row 1, column 2 is 1, but row 2, column 1 is 0"),
    "nan": ("0 nan\nnan 0\n", "row 1, column 2 is nan: an edge's value is its probability, from 0 .* to 1"),
    "nan on the diagonal": ("0 1\n1 nan\n", "row 2, column 2 is nan: an edge's value is its probability"),
    "infinite": ("0 inf\ninf 0\n", "row 1, column 2 is inf: an edge's value is its probability"),
    "negative": ("0 1\n-1 0\n", "row 2, column 1 is -1: an edge's value is its probability"),
    "above 1": ("0 1\n1.5 0\n", "row 2, column 1 is 1.5: an edge's value is its probability"),
    "words": ("# names\nzero one\none zero\n", "line 2: could not convert string to float: 'zero'"),
    "nul": (b"\0" * 20, r"line 1: could not convert string to float: '\\x00"),
    "binary": (bytes(range(256)), "cannot be read: 'utf-8' codec can't decode byte 0x80 in position 128"),
    "compressed": (b"\x1f\x8b\x08\x00" * 9, "cannot be read: 'utf-8' codec can't decode byte 0x8b in position 1"),
}
BAD_EDGELIST = {
    "empty": ("", "is empty: a topology needs at least one node"),
    "one word": ("0 1\n2\n", "line 2: .*: an edge is two node numbers and, if it can fail, its probability"),
    "words": ("a b\n", "line 1: invalid literal for int.* 'a': an edge is two node numbers"),
    "not whole": ("0 1.5\n", "line 1: invalid literal for int.* '1.5': an edge is two node numbers"),
    "four words": ("0 1 0.5 9\n", "line 1: .*: an edge is two node numbers"),
    "networkx data": ("0 1 {'weight': 1.0}\n", "line 1: .*: an edge is two node numbers"),
    "gap": ("0 1\n1 3\n", "its nodes are 0…3, but 2 is missing: number them 0…2"),
    "from 1": ("1 2\n2 3\n", "its nodes are 1…3, but 0 is missing: number them 0…2"),
    "astronomical": ("0 99999999999999999999999\n", "but 1 is missing: number them 0…1"),
    "nan": ("0 1 nan\n", "the edge 0–1 has the value nan: an edge's value is its probability"),
    "negative": ("0 1 -0.5\n", "the edge 0–1 has the value -0.5: an edge's value is its probability"),
    "above 1": ("0 1 2\n", "the edge 0–1 has the value 2: an edge's value is its probability"),
    "two values": ("0 1 0.5\n1 0 0.6\n", "the edge 0–1 is given twice with different values: a topology is undirected"),
    "two values, one 0": ("0 1 0\n1 0 0.6\n", "the edge 0–1 is given twice with different values"),
    "binary": (bytes(range(256)), "cannot be read: 'utf-8' codec can't decode byte 0x80 in position 128"),
}
BAD_NPY = {
    "empty": (b"", "holds no plain numpy array"),
    "no rows": (npy(np.ones((0, 0))), "is empty: an adjacency matrix needs at least one row"),
    "pickle": (pickle.dumps([[0, 1], [1, 0]]), "holds no plain numpy array"),
    "objects": (npy(np.array([[0, 1], [1, 0]], dtype=object), allow_pickle=True), "holds no plain numpy array"),
    "text": ("0 1\n1 0\n", "holds no plain numpy array"),
    "npz": (npz(SYMMETRIC), "holds no plain numpy array"),
    "broken zip": (b"PK\x03\x04 and then nothing", "holds no plain numpy array"),
    "cut in the magic": (npy(SYMMETRIC)[:4], "holds no plain numpy array"),
    "cut in the header": (npy(SYMMETRIC)[:20], "holds no plain numpy array"),
    "cut in the data": (npy(SYMMETRIC)[:-1], "holds no plain numpy array"),
    "8 TB claimed": (npy_of_shape("(1000000, 1000000)"), "holds no plain numpy array"),
    "2^80 entries claimed": (npy_of_shape(f"({2**40}, {2**40})"), "holds no plain numpy array"),
    "2^70 rows claimed": (npy_of_shape(f"({2**70}, 1)"), "holds no plain numpy array"),
    "negative shape": (npy_of_shape("(-2, -2)"), "holds no plain numpy array"),
    "shape of truths": (npy_of_shape("(True, True)"), "holds no plain numpy array"),
    "shape left open": (npy_of_shape("(2, 2"), "holds no plain numpy array"),
    "header of brackets": (npy_with("(" * 3000), "holds no plain numpy array"),
    "header of 64 KB": (npy_with(" " * 65534), "holds no plain numpy array"),
    "header left open": (npy_with("'''shape"), "holds no plain numpy array"),
    "code for a header": (npy_with("__import__('os').abort()"), "holds no plain numpy array"),
    "complex": (npy(np.eye(2, dtype=complex)), "holds complex128: an adjacency matrix holds numbers"),
    "strings": (npy(np.array([["0", "1"], ["1", "0"]])), "holds <U1: an adjacency matrix holds numbers"),
    "dates": (npy(np.zeros((2, 2), dtype="M8[s]")), r"holds datetime64\[s\]: an adjacency matrix holds numbers"),
    "scalar": (npy(np.float64(1)), r"has the shape \(\): an adjacency matrix must be square"),
    "vector": (npy(np.ones(4)), r"has the shape \(4,\): an adjacency matrix must be square"),
    "not square": (npy(np.ones((2, 3))), r"has the shape \(2, 3\): an adjacency matrix must be square"),
    "cube": (npy(np.ones((2, 2, 2))), r"has the shape \(2, 2, 2\): an adjacency matrix must be square"),
    "not symmetric": (npy(np.triu(SYMMETRIC)), "is not symmetric: row 1, column 2 is 1, but row 2, column 1 is 0"),
    "nan": (npy(SYMMETRIC * np.nan), "row 1, column 1 is nan: an edge's value is its probability"),
    "negative": (npy(-SYMMETRIC), "row 1, column 2 is -1: an edge's value is its probability"),
    "above 1": (npy(SYMMETRIC.astype("u1") * 200), "row 1, column 2 is 200: an edge's value is its probability"),
}
BAD_GRAPHML = {
    "empty": ("", "holds no GraphML graph: no element found"),
    "text": ("0 1\n1 0\n", "holds no GraphML graph: syntax error: line 1, column 0"),
    "binary": (bytes(range(256)), "holds no GraphML graph: not well-formed"),
    "cut": (graph(NODES + edge(0, 1))[:-30], "holds no GraphML graph"),
    "other xml": ("<svg/>", "holds no GraphML graph"),
    "unknown encoding": (graph(NODES).replace("utf-8", "utf-88"), "holds no GraphML graph: .*utf-88"),
    "no graph": (graphml(""), "holds no GraphML graph"),
    "no nodes": (graph(""), "is empty: a topology needs at least one node"),
    "directed": (
        graph(NODES + edge(0, 1), "directed"),
        r"is a directed graph: a topology is undirected \(edgedefault='undirected'\)",
    ),
    "doctype": (
        graph(NODES).replace("?>", '?><!DOCTYPE graphml [<!ENTITY a "0.5">]>'),
        "has a DOCTYPE: remove it, GraphML needs none",
    ),
    "doctype in utf-16": (
        graphml(
            f'<graph edgedefault="undirected">{NODES}{edge(0, 1, value="&a;")}</graph>',
            '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE graphml [<!ENTITY a "0.5">]>',
        ).encode("utf-16"),
        "has a DOCTYPE: remove it, GraphML needs none",
    ),
    "missing node": (
        graph('<node id="0"/><node id="2"/>' + edge(0, 2)),
        "its nodes are 0…2, but 1 is missing: number them 0…1",
    ),
    "undeclared node": (graph(NODES + edge(0, 5)), "its nodes are 0…5, but 2 is missing: number them 0…2"),
    "hyperedge": (graph(NODES + "<hyperedge/>"), "holds no GraphML graph: .*hyperedges"),
    "unknown key": (graph(NODES + edge(0, 1, "speed", "1")), "holds no GraphML graph: .*no key speed"),
    "word for a weight": (graph(NODES + edge(0, 1, "weight", "often")), "holds no GraphML graph: .*'often'"),
    "word for a value": (graph(NODES + edge(0, 1, value="often")), "the edge 0–1 has the value 'often': not a number"),
    "nan": (graph(NODES + edge(0, 1, value="nan")), "the edge 0–1 has the value nan: an edge's value"),
    "above 1": (graph(NODES + edge(0, 1, "weight", "3")), "the edge 0–1 has the value 3: an edge's value"),
    "two values": (
        graph(NODES + edge(0, 1, value="0.5") + edge(1, 0, value="0.6")),
        "the edge 0–1 is given twice with different values: a topology is undirected",
    ),
}


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        pytest.param(suffix, content, message, id=f"{suffix}: {name}")
        for suffix, bad in [
            (".txt", BAD_TEXT),
            (".edgelist", BAD_EDGELIST),
            (".npy", BAD_NPY),
            (".graphml", BAD_GRAPHML),
        ]
        for name, (content, message) in bad.items()
    ],
)
def test_a_bad_file_is_an_input_error_that_says_where(
    suffix: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"bad{suffix}", content)
    with pytest.raises(InputError, match=message) as caught:
        read_topology(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class MakesFolder:
    """When unpickled, makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("in_array", [True, False])
def test_what_a_pickle_would_do_is_not_done(in_array: bool, tmp_path: Path) -> None:
    attack = MakesFolder(tmp_path / "attacked")
    content = npy(np.array([[attack]]), allow_pickle=True) if in_array else pickle.dumps(attack)
    with pytest.raises(InputError, match="holds no plain numpy array"):
        read_topology(write(tmp_path / "attack.npy", content))
    assert not attack.path.exists()
    pickle.loads(pickle.dumps(attack))
    assert attack.path.exists()  # the attack works where it is let in


def test_a_matrix_too_large_for_memory_is_an_input_error(tmp_path: Path) -> None:
    # The file really has that many bytes, though as a hole that takes no room on the disk.
    path = write(tmp_path / "large.npy", npy_with(
        f"{{'descr': '|b1', 'fortran_order': False, 'shape': (1, {MAX_ENTRIES + 1}), }}", b""
    ))  # fmt: skip
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + MAX_ENTRIES + 1)
    message = r"has the shape \(1, 200000001\): too large for a dense matrix, use an .edgelist"
    with pytest.raises(InputError, match=message):
        read_topology(path)


@pytest.mark.parametrize("suffix", FILE_KINDS)
def test_a_missing_file_is_an_input_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"nothing{suffix}"
    with pytest.raises(InputError, match=f"nothing{suffix}: no such topology file"):
        read_topology(path)


@pytest.mark.parametrize("suffix", FILE_KINDS)
def test_a_folder_in_place_of_a_file_is_an_input_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"folder{suffix}"
    path.mkdir()
    with pytest.raises(InputError, match=f"folder{suffix}: is a folder: name a plain file"):
        read_topology(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of numpy and networkx, about what they guess
@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".txt", "0 1 0.5\n1 0 0\n0.5 0 0\n"),
        (".edgelist", "0 1 0.5\n1 2\n"),
        (".npy", npy(SYMMETRIC)),
        (".graphml", graph(NODES + edge(0, 1, value="0.5"))),
    ],
)
def test_a_damaged_file_is_an_input_error_or_still_a_topology(
    suffix: str, content: str | bytes, tmp_path: Path
) -> None:
    whole = np.frombuffer(content if isinstance(content, bytes) else content.encode(), dtype=np.uint8)
    rng = np.random.default_rng(0)
    path = tmp_path / f"damaged{suffix}"
    read = 0
    for _ in range(400):
        damaged = whole.copy()
        damaged[rng.integers(len(whole), size=2)] = rng.choice(
            np.frombuffer(b"0159()[]',-. Le\x00\xff", dtype=np.uint8), 2
        )
        try:
            matrix = read_topology(write(path, damaged.tobytes())).adjacency.toarray()
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            continue
        read += 1
        np.testing.assert_array_equal(matrix, matrix.T)
        assert ((matrix >= 0) & (matrix <= 1)).all()
        assert not matrix.diagonal().any()
    assert 0 < read < 400
