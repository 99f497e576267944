"""Who may import whom, and the few rules of style that a machine can hold."""

import ast
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "isthmus"
MAX_LINES = 400

# The house of docs/architecture.md: each room and what it may import. A room is a module or a folder directly under
# `isthmus`; `data.vocabularies` opens that one module of a room. None: everything.
MAY_IMPORT: dict[str, set[str] | None] = {
    "allocator": set(),
    "errors": set(),
    "files": {"errors"},
    "schema": set(),
    "domains": set(),
    "losses": set(),
    "metrics": set(),
    "index": set(),
    "batch": {"domains"},
    "layers": {"domains", "batch"},
    "backbones": {"layers", "domains"},
    "models": {"backbones", "layers", "batch", "domains"},
    "data": {"schema", "batch", "domains", "errors", "files"},
    "evaluation": {"schema", "models", "data", "index", "metrics", "batch", "domains", "errors", "files"},
    "training": {
        "evaluation",
        "models",
        "backbones",
        "layers.shapes",
        "data",
        "losses",
        "metrics",
        "batch",
        "domains",
        "errors",
        "files",
    },
    "serving": {
        "models",
        "evaluation",
        "index",
        "abtest",
        "data.vocabularies",
        "data.dataset",
        "data.features",
        "data.new_rows",
        "data.row_statistics",
        "data.statistics",
        "data.write",
        "schema",
        "batch",
        "domains",
        "errors",
        "files",
    },
    "abtest": {"data", "errors", "files"},
    "settings": {"schema", "errors", "files"},  # and every settings class, wherever it stands: see `import_problems`
    "api": None,
    "bundling": None,
    "tuning": None,
    "experiments": None,
    "cli": None,
    "cli_serving": None,
    "__main__": None,
    "__init__": None,  # isthmus/__init__.py, our promise to users
}


def module_name(path: Path) -> str:
    """`isthmus.layers.mlp` for src/isthmus/layers/mlp.py; a folder's `__init__.py` is the folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.Module, module: str, is_folder: bool) -> list[tuple[str, str]]:
    """Every import of a file, those inside functions too: (module, name), the name empty for a plain `import`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                origin = resolve_name("." * node.level + origin, module if is_folder else module.rpartition(".")[0])
            found += [(origin, alias.name) for alias in node.names]
    return found


def own_imports(source: str, module: str, is_folder: bool = False) -> list[tuple[str, str]]:
    """The imports of our own modules: (module, name); `from isthmus.layers import mlp` is of isthmus.layers.mlp."""
    found = []
    for origin, name in imports(ast.parse(source), module, is_folder):
        if origin.split(".")[0] == "isthmus":
            found.append((f"{origin}.{name}", "") if f"{origin}.{name}" in SOURCES else (origin, name))
    return found


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def import_problems(source: str, module: str, is_folder: bool = False) -> list[str]:
    """What the file imports of ours and its room may not."""
    room = room_of(module)
    if room not in MAY_IMPORT:
        return [f"{module}: the room {room!r} is not in MAY_IMPORT"]
    allowed = MAY_IMPORT[room]
    if allowed is None:
        return []
    problems = []
    for imported, name in own_imports(source, module, is_folder):
        inside = imported.removeprefix("isthmus").removeprefix(".")
        is_allowed = room_of(imported) == room or any(f"{inside}.".startswith(f"{entry}.") for entry in allowed)
        if not (is_allowed or (room == "settings" and name.endswith("Settings"))):
            problems.append(f"{module} imports {name or 'all'} of {imported}")
    return problems


def unsafe_calls(source: str) -> list[str]:
    """Calls by which a file that we open, or a name in it, could run code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if (
                call in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "pickle.load", "pickle.loads", "joblib.load"}
                or (call == "torch.load" and keywords.get("weights_only") != "True")
                or keywords.get("allow_pickle") == "True"
            ):
                found.append(f"line {node.lineno}: {call}")
    return found


def test_imports_run_downwards_only() -> None:
    problems = [
        problem
        for module, path in SOURCES.items()
        for problem in import_problems(path.read_text(), module, path.name == "__init__.py")
    ]
    assert problems == []
    assert len(SOURCES) > 20, f"read {len(SOURCES)} files of {PACKAGE}"


def test_no_two_modules_import_each_other() -> None:
    graph = {
        module: {
            imported
            for imported, _ in own_imports(path.read_text(), module, path.name == "__init__.py")
            if imported != module
        }
        for module, path in SOURCES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_the_package_imports_only_what_it_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        requirement.split("==")[0].split("[")[0].lower()
        for requirement in [
            *project["dependencies"],
            *(name for extra in ("board", "plots", "tune", "references", "serve") for name in extras[extra]),
        ]
    }
    distributions = packages_distributions()
    undeclared = set()
    for module, path in SOURCES.items():
        for origin, _ in imports(ast.parse(path.read_text()), module, path.name == "__init__.py"):
            top = origin.split(".")[0]
            if top != "isthmus" and top not in sys.stdlib_module_names:
                names = {name.lower() for name in distributions.get(top, [top])}
                if not names & declared:
                    undeclared.add((module, top))
    assert undeclared == set()


def test_every_source_file_keeps_the_house_style() -> None:
    problems = []
    for module, path in SOURCES.items():
        text = path.read_text()
        tree = ast.parse(text)
        if tree.body and not ast.get_docstring(tree):
            problems.append(f"{module}: no docstring")
        if ("__future__", "annotations") in imports(tree, module, path.name == "__init__.py"):
            problems.append(f"{module}: postponed annotations hide the shapes from the check")
        problems += [f"{module}: says {mark}" for mark in ("TO" + "DO", "FIX" + "ME") if mark in text]
        if (num_lines := len(text.splitlines())) > MAX_LINES:
            problems.append(f"{module}: {num_lines} lines, more than {MAX_LINES}")
        problems += [f"{module}: unsafe call, {call}" for call in unsafe_calls(text)]
    assert problems == []
    assert len(SOURCES) > 20, f"read {len(SOURCES)} files of {PACKAGE}"


FORBIDDEN = (
    ("isthmus.layers.mlp", "from isthmus.models.two_tower import TwoTower"),
    ("isthmus.layers.mlp", "import isthmus.schema"),
    ("isthmus.layers.mlp", "from isthmus import data"),
    ("isthmus.layers.mlp", "def late() -> None:\n    from isthmus.settings import RunSettings"),
    ("isthmus.layers.mlp", "from ..data import prepare"),
    ("isthmus.domains", "from isthmus.batch import Bag"),
    ("isthmus.metrics", "from isthmus.losses import sampled_softmax"),
    ("isthmus.models.two_tower", "from isthmus.losses import sampled_softmax"),
    ("isthmus.losses", "from isthmus.models.two_tower import TwoTower"),
    ("isthmus.evaluation.retrieval", "from isthmus.training.retrieval import train"),
    ("isthmus.serving.service", "from isthmus.data.prepare import prepare"),
    ("isthmus.settings", "from isthmus.models.two_tower import TwoTower"),
    ("isthmus.kitchen.sink", "import torch"),
)
ALLOWED = (
    ("isthmus.layers.mlp", "from isthmus.domains import DomainSlices"),
    ("isthmus.layers.mlp", "from .domain_linear import DomainLinear"),
    ("isthmus.layers.mlp", "import torch"),
    ("isthmus.serving.service", "from isthmus.data.vocabularies import Vocabulary"),
    ("isthmus.settings", "from isthmus.models.two_tower import TwoTowerSettings"),
    ("isthmus.cli", "from isthmus.training.retrieval import train"),
)


@pytest.mark.parametrize(("module", "source"), FORBIDDEN)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(import_problems(source, module)) == 1


@pytest.mark.parametrize(("module", "source"), ALLOWED)
def test_an_allowed_import_is_not_reported(module: str, source: str) -> None:
    assert import_problems(source, module) == []


def test_unsafe_calls_are_found() -> None:
    source = "torch.load(path)\ntorch.load(path, weights_only=True)\nyaml.load(text)\nyaml.safe_load(text)\n"
    assert unsafe_calls(source) == ["line 1: torch.load", "line 3: yaml.load"]
