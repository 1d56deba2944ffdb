"""A file imports only from floors below its own, or from its own package; and a rank's path imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mpisim"

# From the ground up. A package's files share its floor and may import each other, as long as no circle comes of it.
FLOORS = [
    ["__init__"],
    ["errors"],
    ["libraries", "locks", "options", "streams", "units"],
    ["graphs", "ranks"],
    ["data", "models"],
    ["learning"],
    ["exchange", "storage"],
    ["config", "display"],
    ["decisive"],
    ["analysis", "arguments", "dealing", "resuming"],
    ["experiment"],
    ["local_training", "notes"],
    ["briefing", "memory", "nodes", "opening"],
    ["keeping", "sharing"],
    ["plan"],
    ["results"],
    ["rounds"],
    ["simulation"],
    ["estimate"],
    ["run", "report", "bench", "sweep"],
]
# What a package may know beside the standard library, numpy and the floors below.
LIBRARIES = {
    "errors": set(),
    "streams": set(),
    "libraries": {"mpi4py", "torch", "torchvision"},
    "graphs": {"networkx", "pymetis", "scipy"},
    "ranks": {"mpi4py"},
    "models": {"torch"},
    "analysis": {
        "PIL",
        "h5py",
        "imageio_ffmpeg",
        "matplotlib",
        "networkx",
        "pandas",
        "plotly",
        "rich",
        "scipy",
        "xarray",
    },
    "storage": {"h5py", "safetensors"},
    "estimate": {"mpi4py", "torch"},
    "report": set(),
    "bench": {"mpi4py", "torch"},
    "sweep": {"h5py", "parsl", "rich"},
}
KNOWN_LIBRARIES = {
    "PIL",
    "h5py",
    "imageio_ffmpeg",
    "matplotlib",
    "mpi4py",
    "networkx",
    "pandas",
    "parsl",
    "plotly",
    "pymetis",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "torchvision",
    "xarray",
}
ON_A_RANKS_PATH = {"numpy", "mpi4py", "torch", "mpisim"}

FILES = sorted(PACKAGE.rglob("*.py"))


def unit(module: str) -> str:
    """Return the file or package, right below mpisim, that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return the modules that a file imports, each with whether it does so when it is loaded."""
    found = []

    def visit(node: ast.AST, at_load: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module or "", at_load))
        is_type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        inside = at_load and not is_type_checking and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), at_load=True)
    return found


def floor(module: str) -> int:
    [number] = [number for number, units in enumerate(FLOORS) if unit(module) in units]
    return number


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_from_below(path):
    own = module_of(path)
    if own == "mpisim":  # its names load on first use
        return
    for module, _ in imports(path):
        if module.split(".")[0] == "mpisim" and unit(module) != unit(own):
            assert floor(module) < floor(own), f"{own} imports {module}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_package_knows_only_its_libraries(path):
    own = unit(module_of(path))
    for module, _ in imports(path):
        library = module.split(".")[0]
        if own in LIBRARIES and library in KNOWN_LIBRARIES:
            assert library in LIBRARIES[own], f"{module_of(path)} imports {library}"


def test_every_file_stands_on_a_floor():
    standing = {name for units in FLOORS for name in units}
    assert {unit(module_of(path)) for path in FILES} == standing


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_heavy_is_imported_at_load(path):
    for module, at_load in imports(path):
        library = module.split(".")[0]
        if at_load and library not in sys.stdlib_module_names:
            assert library in ON_A_RANKS_PATH, f"{module_of(path)} imports {library} when it is loaded"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_world_is_named_only_by_commands(path):
    if "MPI.COMM_WORLD" in path.read_text(encoding="utf-8"):
        assert unit(module_of(path)) in {"run", "bench", "estimate", "__init__"}


def test_analysis_needs_neither_mpi_nor_torch():
    code = (
        "import importlib, pkgutil, sys, mpisim.analysis, mpisim.report.commands\n"
        "for module in pkgutil.iter_modules(mpisim.analysis.__path__, 'mpisim.analysis.'):\n"
        "    importlib.import_module(module.name)\n"
        "assert 'mpisim.analysis.page_data' in sys.modules\n"
        "print([name for name in ('mpi4py', 'torch') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
