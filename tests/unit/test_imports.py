"""Imports run downward only: no cycles, no arrows up, no forbidden packages."""

import pytest

from tests.helpers.imports import forbidden_imports, read_imports, upward_imports
from tests.helpers.servers import ROOT

MODELS = sorted(path.parent.parent.name for path in ROOT.glob("model_repository/*/1/model.py"))
ROOTS = [
    "client/src",
    "scripts",
    "loadtest",
    "model_repository",
    *(f"model_repository/{model}/1" for model in MODELS),
]
CLIENT, SERVER = "client/src/tritonclip", "scripts/tritonclip_server"
LAYERS = {
    CLIENT: [
        ["errors", "_types", "_version", "_messages", "_process"],
        ["_images"],
        ["_settings", "_answers"],
        ["_calls", "_retry"],
        ["_transport", "_bulk", "_isolate"],
        ["client", "async_client", "_base"],
        ["_pipeline"],
        ["classifier"],
        ["__init__"],  # the public names, which search, spark, synapse, gateway and _cli may use
        ["search", "spark", "synapse"],
        ["gateway"],
        ["_cli", "__main__"],
    ],
    SERVER: [
        ["__init__", "paths", "_lazy_group"],
        ["repository"],
        ["serving"],
        ["rollout", "evaluation"],
        ["demo"],
        ["onnx_export"],
        ["benchmarks", "gpu"],
        ["_cli", "__main__"],
    ],
}
FORBIDDEN = {
    "client": ["scripts", "loadtest", "model_repository"],
    "model_repository": ["client", "scripts", "loadtest"],
    "scripts": ["loadtest"],  # some commands load a model's code on purpose
    "loadtest": ["model_repository"],
    **{
        f"{SERVER}/{room}": ["client"]
        for layer in LAYERS[SERVER]
        for room in layer
        if room not in ("evaluation", "demo", "benchmarks", "gpu")
    },
}
"""Folders and what their files must not import. Only four rooms of the server package need the client."""

LINES_OF = [CLIENT, SERVER, "model_repository", "loadtest", "tests"]


@pytest.fixture(scope="module")
def graph():
    return read_imports(ROOT, ROOTS)


def listed(imports):
    return "\n".join(f"  {one}" for one in imports)


def lines_of_source(folder):
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py"))


def test_checkout_has_no_import_cycle(graph, record_property):
    cycles = graph.cycles()
    record_property("cycles", len(cycles))
    record_property("longest chain", graph.longest_chain())
    assert not cycles, "import cycles; move what both need to a lower module:\n" + "\n\n".join(
        map(listed, cycles)
    )


@pytest.mark.parametrize("package", LAYERS)
def test_package_imports_run_downward(graph, package, record_property):
    found = upward_imports(graph, package, LAYERS[package])
    record_property("upward imports", len(found))
    layers = " < ".join(", ".join(layer) for layer in LAYERS[package])
    assert not found, f"{package} imports only downward ({layers}); these go up:\n{listed(found)}"


@pytest.mark.parametrize("importer", FORBIDDEN)
def test_package_imports_no_forbidden_package(graph, importer):
    found = forbidden_imports(graph, importer, FORBIDDEN[importer])
    names = ", ".join(FORBIDDEN[importer])
    assert not found, f"{importer} must not import from {names}:\n{listed(found)}"


def test_size_of_the_checkout_is_recorded(graph, record_property):
    for folder in (CLIENT, "scripts"):
        seen_first = [path for path in graph.files if str(path.parent) == folder]
        record_property(f"modules at the top of {folder}", len(seen_first))
        assert seen_first
    for folder in LINES_OF:
        record_property(f"lines of {folder}", lines_of_source(folder))


def write_tree(folder, sources):
    """Write a package `pack` of the given modules and return the graph of its imports."""
    for name, source in sources.items():
        path = folder / "pack" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return read_imports(folder, ["."])


def shown(imports):
    return [str(one) for one in imports]


def test_cycle_is_reported_with_files_and_lines(tmp_path):
    sources = {"a": "import os\nfrom pack import b\n", "b": "from pack.c import x\n", "c": "import pack.a\n"}
    graph = write_tree(tmp_path, sources)
    assert [shown(cycle) for cycle in graph.cycles()] == [
        ["pack/a.py:2 imports pack/b.py", "pack/b.py:1 imports pack/c.py", "pack/c.py:1 imports pack/a.py"]
    ]


def test_shortest_of_several_cycles_is_reported(tmp_path):
    sources = {"a": "from pack import b, c\n", "b": "from pack import c\n", "c": "from pack import a\n"}
    graph = write_tree(tmp_path, sources)
    assert [shown(cycle) for cycle in graph.cycles()] == [
        ["pack/a.py:1 imports pack/c.py", "pack/c.py:1 imports pack/a.py"]
    ]


def test_module_that_imports_itself_is_a_cycle(tmp_path):
    graph = write_tree(tmp_path, {"a": "import pack.a\n"})
    assert [shown(cycle) for cycle in graph.cycles()] == [["pack/a.py:1 imports pack/a.py"]]


def test_longest_chain_counts_all_files_of_a_cycle(tmp_path):
    sources = {"a": "import pack.b\n", "b": "import pack.c\n", "c": "import pack.b, pack.d\n", "d": ""}
    graph = write_tree(tmp_path, sources)
    assert graph.longest_chain() == 4


def test_upward_import_is_reported(tmp_path):
    graph = write_tree(tmp_path, {"low": "from pack.high import x\n", "high": "from pack import low\n"})
    assert shown(upward_imports(graph, "pack", [["low"], ["high"]])) == ["pack/low.py:1 imports pack/high.py"]
    assert not upward_imports(graph, "pack", [["low", "high"]])


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    from pack.high import x\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack import high\n",
        "from . import high\n",
        "from .high import x\n",
        "from importlib import import_module\nhigh = import_module('pack.high')\n",
        "import importlib\nhigh = importlib.import_module('pack.high')\n",
    ],
    ids=["function", "type checking", "relative", "relative name", "import_module", "importlib"],
)
def test_every_kind_of_import_is_found(tmp_path, source):
    graph = write_tree(tmp_path, {"low": source, "high": ""})
    assert [one.imported.name for one in upward_imports(graph, "pack", [["low"], ["high"]])] == ["high.py"]


def test_name_from_a_package_counts_as_an_import_of_its_init(tmp_path):
    graph = write_tree(tmp_path, {"__init__": "from pack.low import x\n", "low": "from pack import y\n"})
    assert shown(upward_imports(graph, "pack", [["low"], ["__init__"]])) == [
        "pack/low.py:1 imports pack/__init__.py"
    ]


def test_relative_import_in_an_inner_package_is_resolved(tmp_path):
    sources = {"low/deep": "from .. import high\nfrom .near import x\n", "low/near": "", "high": ""}
    graph = write_tree(tmp_path, sources)
    assert shown(graph.imports) == [
        "pack/low/deep.py:1 imports pack/high.py",
        "pack/low/deep.py:2 imports pack/low/near.py",
    ]


def test_module_in_no_layer_is_an_error(tmp_path):
    graph = write_tree(tmp_path, {"low": "", "other": ""})
    with pytest.raises(LookupError, match="pack/other.py is in no layer of pack"):
        upward_imports(graph, "pack", [["low"]])


def test_forbidden_import_is_reported(tmp_path):
    (tmp_path / "secret.py").write_text("")
    graph = write_tree(tmp_path, {"a": "import secret\n"})
    assert shown(forbidden_imports(graph, "pack", ["secret.py"])) == ["pack/a.py:1 imports secret.py"]
    assert not forbidden_imports(graph, "secret.py", ["pack"])
