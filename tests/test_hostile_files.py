"""Files that are wrong: a valid object or the one-line error, whatever is in them."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import networkx as nx
import numpy as np
import pytest
from conftest import LogContent
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpisim.analysis.logs import open_file
from mpisim.arguments import parse_config, read_toml
from mpisim.config import Config
from mpisim.data.idx import read_idx
from mpisim.errors import InputError
from mpisim.graphs.files import read_topology
from mpisim.graphs.generators import make_topology
from mpisim.graphs.topology import Topology
from mpisim.resuming import check_same_experiment
from mpisim.storage.checkpoint import checkpoints

FEW = settings(derandomize=True, deadline=None, max_examples=150)
ENDLESS = b"9" * 5000  # more digits than Python makes a number of


def damaged(wholes: Sequence[bytes], words: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return valid files in which up to four pieces are replaced, by a few bytes or by words that matter there."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(wholes)))
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, len(content)))
            end = start + draw(st.integers(0, 8))
            content[start:end] = draw(st.binary(max_size=8) | st.sampled_from(words))
        return bytes(content)

    return strategy()


def check_reader(read: Callable[[Path], Any], name: str, content: bytes, error: type[Exception] = InputError) -> Any:
    """Return what a reader makes of a file, None after the one-line error, which names it if it is for a person."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return read(path)
        except error as raised:
            assert error is not InputError or path.name in str(raised)
            assert "\n" not in str(raised)
            return None


def npy(header: str, data: bytes) -> bytes:
    line = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + data


def npy_matrix(descr: str, shape: str, data: bytes) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", data)


def graphml(body: str, kind: str = "double", start: str = "") -> bytes:
    key = f'<key id="w" for="edge" attr.name="weight" attr.type="{kind}"/>'
    text = f'<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{key}<graph edgedefault="undirected">{body}</graph>'
    return f"{start}{text}</graphml>".encode()


def edge(value: str) -> str:
    return f'<node id="0"/><node id="1"/><edge source="0" target="1"><data key="w">{value}</data></edge>'


TOPOLOGIES = {
    ".txt": (
        [b"0 1\n1 0\n", b"0, 1, .5 # a\n1, 0, 0\n.5, 0, 0\n"],
        [b"nan", b"1e999", b"0x1", b"\xef\xbb\xbf", ENDLESS],
    ),
    ".edgelist": ([b"0 1 0.5\n1 2\n", b"0 1 {}\n"], [b"-1", b"1e9", b"1_0", b"nan", b" 1000000000000", b"\r", ENDLESS]),
    ".graphml": (
        [
            graphml(edge("0.5")),
            graphml(edge("1"), "long"),
            graphml(edge("1"), "string"),
            graphml(edge("true"), "boolean"),
        ],
        [b"<", b"&#10;", b'"', b"&a;", b"<!DOCTYPE a>", b"<node/>", b"<edge/>", b"<graph/>", b"</graph>", ENDLESS],
    ),
    ".npy": (
        [
            npy_matrix(f"'{kind}'", "(2, 2)", np.array([[0, 1], [1, 0]], kind).tobytes())
            for kind in ("<f8", "|b1", ">i4")
        ]
        + [npy_matrix("[('a', '<f8')]", "(1, 1)", bytes(8))],
        [b"O", b"V0", b"U0", b"(1000000000000, 1000000000000)", b"-1", b"True", b"'", b"\n", b"[", ENDLESS],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("suffix", TOPOLOGIES)
def test_any_topology_file_is_a_topology_or_the_one_line_error(suffix: str) -> None:
    wholes, words = TOPOLOGIES[suffix]

    @FEW
    @given(content=st.binary(max_size=200) | st.text().map(str.encode) | damaged(wholes, words))
    def check(content: bytes) -> None:
        topology = check_reader(read_topology, f"graph{suffix}", content)
        if topology is not None:
            matrix = topology.adjacency.toarray()
            assert isinstance(topology, Topology)
            np.testing.assert_array_equal(matrix, matrix.T)
            assert ((matrix >= 0) & (matrix <= 1)).all()

    check()


HOSTILE_GRAPHML = {
    "a number of a node without end": graphml(f'<node id="{"9" * 5000}"/>'),
    "a weight beyond all floats": graphml(edge("9" * 400), "long"),
    "a weight without end": graphml(edge("9" * 5000), "long"),
    "a weight on two lines": graphml(edge("o&#10;x")),
    "tags without end": b"<a>" * 50_000,
    "names on two lines": graphml('<node id="a&#10;b"/><hyperedge/>'),
}


@pytest.mark.parametrize("content", HOSTILE_GRAPHML.values(), ids=HOSTILE_GRAPHML)
def test_a_hostile_graphml_file_is_the_one_line_error(content: bytes) -> None:
    assert check_reader(read_topology, "graph.graphml", content) is None


LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
BILLION_LAUGHS = graphml(edge("&l9;"), start=f'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY l0 "lol">{LAUGHS}]>')
PROMISES = {
    "entities that expand": ("a.graphml", BILLION_LAUGHS),
    "entities that expand, in UTF-16": ("a.graphml", BILLION_LAUGHS.decode().encode("utf-16")),
    "a node of a large number": ("a.graphml", graphml('<node id="0"/><node id="1000000000000"/>')),
    "an edge to a large number": ("a.edgelist", b"0 1000000000000\n"),
    "10^12 nodes": ("a.npy", npy_matrix("'|b1'", "(1000000000000, 1000000000000)", bytes(64))),
    "10^12 nodes of no bytes": ("a.npy", npy_matrix("'|V0'", "(1000000000000, 1000000000000)", b"")),
    "10^12 empty rows": ("a.npy", npy_matrix("'<f8'", "(1000000000000, 0)", b"")),
}


@pytest.mark.parametrize(("name", "content"), PROMISES.values(), ids=PROMISES)
def test_no_memory_is_taken_for_what_a_topology_file_promises(name: str, content: bytes) -> None:
    nx.parse_graphml(graphml(edge("1")).decode())  # what it imports is not the file's
    tracemalloc.start()
    try:
        assert check_reader(read_topology, name, content) is None
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


GENERATE = """
import resource, sys
import networkx
from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))
try:
    make_topology(sys.argv[1])
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("spec", ["ring:n=200000000", "ba:n=100000,m=50000", "ws:n=100000,k=99998,p=0.1"])
def test_a_generator_refuses_what_no_memory_holds(spec: str) -> None:
    """Graphs of which Python's objects would take 20 GB at the least, in a process that may take 2."""
    finished = subprocess.run(
        [sys.executable, "-c", GENERATE, spec],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert finished.stderr == ""
    assert re.fullmatch(f"topology '{spec}': .*too many.*\n", finished.stdout)


@FEW
@given(
    name=st.sampled_from(["ba", "er", "path", "powerlaw", "regular", "ring", "sb", "star", "torus", "ws", "blob"]),
    parameters=st.dictionaries(
        st.sampled_from(["n", "m", "k", "p", "seed", "sizes", "p_in", "p_out"]),
        st.integers(-1, 12).map(str)
        | st.sampled_from(["1000000000000", "9" * 5000, "1-2-3", "0.5", "nan", "-", "a\nb"]),
    ),
)
@example(name="ring", parameters={"n": "1000000000000"})
def test_any_generator_is_a_topology_or_the_one_line_error(name: str, parameters: dict[str, str]) -> None:
    spec = f"{name}:" + ",".join(f"{key}={value}" for key, value in parameters.items())
    try:
        assert make_topology(spec).num_nodes >= 1
    except InputError as error:
        assert "\n" not in str(error)


TOML = [b"rounds = 3\nlr = 0.1\nood_node = [1, 2]\nname = 'a'\n", b'quiet = true\nbetas = [0.9, 0.99]\n"seed" = 0x1f\n']
TOML_WORDS = [
    b"[",
    b"[[a]]",
    b"=",
    b"''",
    b'"""',
    b"{",
    b"1979-05-27",
    b"inf",
    b"\\u0000",
    b"\n",
    b"a.b=1",
    b"_",
    ENDLESS,
]


@FEW
@given(content=st.binary(max_size=100) | st.text().map(str.encode) | damaged(TOML, TOML_WORDS))
@example(content=b"name = '\xff'")
def test_any_toml_file_is_options_or_the_one_line_error(content: bytes) -> None:
    options = check_reader(read_toml, "options.toml", content)
    if options is not None:
        assert options.keys() <= vars(Config()).keys()
        try:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "options.toml"
                path.write_bytes(content)
                assert isinstance(parse_config(["--config", str(path)]), Config)
        except InputError as error:
            assert "\n" not in str(error)


HOSTILE_TOML = {
    "a number without end": b"seed = " + ENDLESS,
    "lists in lists without end": b"name = " + b"[" * 5000,
    "tables in tables without end": b"name = " + b"{a = " * 5000,
}


@pytest.mark.parametrize("content", HOSTILE_TOML.values(), ids=HOSTILE_TOML)
def test_a_hostile_toml_file_is_the_one_line_error(content: bytes) -> None:
    assert check_reader(read_toml, "options.toml", content) is None


READERS = {"graph.edgelist": read_topology, "graph.npy": read_topology, "options.toml": read_toml}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device"])
def test_what_is_no_plain_file_is_refused_unread(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("no device can be made here")
    else:
        path.symlink_to("/dev/zero")
    what = "a folder" if kind == "folder" else "a pipe or a device"
    with pytest.raises(InputError, match=rf"{name}: is {what}: name a plain file$"):
        READERS[name](path)


@pytest.mark.parametrize(("name", "most"), [("graph.edgelist", 4 << 30), ("options.toml", 16 << 20)])
def test_a_file_beyond_all_measure_is_refused_unread(tmp_path: Path, name: str, most: int) -> None:
    path = tmp_path / name
    path.touch()
    os.truncate(path, most + 1)  # a hole: it takes no room
    with pytest.raises(InputError, match=rf"{name}: has {most + 1} bytes, more than {most} are not read$"):
        READERS[name](path)


def idx(sizes: Sequence[int], data: bytes) -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + data


HUGE = 2**32 - 1


@FEW
@given(
    content=st.binary(max_size=64)
    | damaged([idx([2, 2, 3], bytes(12)), idx([0, 28, 28], b"")], [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\x08\x03"]),
)
@example(content=idx([HUGE, HUGE, HUGE], bytes(12)))
@example(content=idx([HUGE, HUGE, 0], b""))
@example(content=idx([HUGE, 1, 0], b""))
def test_any_idx_file_is_an_array_or_the_one_line_error(content: bytes) -> None:
    def read(path: Path) -> np.ndarray:
        return read_idx(path, 3)

    array = check_reader(read, "train-images-idx3-ubyte", content, ValueError)
    if array is not None:
        assert content == idx(array.shape, array.tobytes())


def read_log(path: Path) -> str:
    with open_file(path) as file:
        return str(file.attrs["schema"])


def test_any_log_is_a_log_or_the_one_line_error(tmp_path: Path, log_content: LogContent) -> None:
    """Eight bytes anywhere in a log, its attributes among them, become others."""
    rng = np.random.default_rng(0)
    whole = np.frombuffer(log_content.write(tmp_path / "log.h5", [log_content.round()]).read_bytes(), dtype=np.uint8)
    starts = rng.choice(len(whole) // 8, 1_000, replace=False) * 8
    opened = 0
    for start in starts.tolist():
        content = whole.copy()
        content[start : start + 8] = rng.integers(0, 256, 8)
        schema = check_reader(read_log, "log.h5", content.tobytes())
        assert schema in (None, "mpisim-log")
        opened += schema is not None
    assert 0 < opened < len(starts)


@pytest.fixture(scope="module")
def whole_log(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    content = LogContent()
    return content.write(tmp_path_factory.mktemp("whole") / "log.h5", [content.round()]).read_bytes()


@FEW
@given(content=st.binary(max_size=200), cut=st.integers(0, 3000))
def test_what_is_no_whole_hdf5_file_is_the_one_line_error(whole_log: bytes, content: bytes, cut: int) -> None:
    assert check_reader(read_log, "log.h5", content) is None
    assert check_reader(read_log, "log.h5", whole_log[: min(cut, len(whole_log) // 2)] + content) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.floats() | st.text(max_size=4),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=5,
)


@FEW
@given(
    config=JSON.map(json.dumps) | st.text(st.characters(exclude_characters="\0"), max_size=9), size=st.integers(0, 3)
)
@example(config="[]", size=1)
@example(config="[" * 100_000, size=1)
def test_a_log_with_any_options_is_not_gone_on_with(config: str, size: int) -> None:
    def resume(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs["schema"] = "mpisim-log"
            file["round"] = np.arange(size)
            file.attrs.create("config", config.encode(errors="replace")[:60_000])
        check_same_experiment(Config(), path)
        raise AssertionError("it would go on")

    assert check_reader(resume, "log.h5", b"") is None


MANIFEST: dict[str, Any] = {
    "schema": "mpisim-checkpoint",
    "schema_version": 1,
    "round": 8,
    "num_nodes": 2,
    "options": {"seed": 0},
    "shards": [{"name": "rank-00000.safetensors", "size": 100, "checksum": 1, "nodes": [0, 1]}],
}


@FEW
@given(field=st.sampled_from(sorted(MANIFEST)), of_shard=st.sampled_from(sorted(MANIFEST["shards"][0])), value=JSON)
@example(field="num_nodes", of_shard="nodes", value=10**12)
@example(field="round", of_shard="size", value=8.0)
def test_a_forged_manifest_is_a_checkpoint_of_its_nodes_or_passed_over(field: str, of_shard: str, value: Any) -> None:
    """Its checksum is right: who forges the one forges the other."""
    for forged in (
        MANIFEST | {field: value},
        MANIFEST | {"shards": [MANIFEST["shards"][0] | {of_shard: value}]},
    ):
        signed = json.dumps(forged | {"checksum": zlib.crc32(json.dumps(forged).encode())})
        with TemporaryDirectory() as folder:
            path = Path(folder) / "round-000008/manifest.json"
            path.parent.mkdir()
            path.write_text(signed)
            lines: list[str] = []
            found = checkpoints(Path(folder), lines.append)
            assert len(found) + len(lines) == 1
            assert "\n" not in "".join(lines)
            for checkpoint in found:
                assert (checkpoint.round, checkpoint.num_nodes) == (8, 2)
                assert type(checkpoint.round) is int
                assert [shard.nodes for shard in checkpoint.shards] == [(0, 1)]
