# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: a layer imports what lies below it; the command line wires them."""

import ast
import graphlib
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "edgepaas"

#: From the ground up. A module may import its own layer and those before it.
LAYERS = (
    {"errors", "build", "_build", "__init__"},
    {"timing"},
    {"http_client"},
    {"files"},
    {"logs"},
    {"terminal", "sd_notify"},
    {"settings"},
    {"alerts"},
    {"pgdriver"},
    {"decision"},
    {"outcomes"},
    {"marks"},
    {"database"},
    {"outbox"},
    {"apikit"},
    {"app"},
    {"hosting"},
    {"schema"},
    {"sync"},
    {"health"},
    {"web"},
    {"telemetry"},
    {"httpd"},
    {"supervisor"},
    {"service"},
    {"doctor", "drill", "backup"},
    {"cli", "__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

#: Reached from the command line alone: importing one of these is somebody's start-up time.
HEAVY = {"sqlalchemy", "alembic", "flask", "flask_smorest", "marshmallow", "requests", "pg8000"}
LEAN = {
    *("errors", "build", "timing", "http_client", "files", "logs", "terminal", "settings"),
    *(
        "alerts",
        "pgdriver",
        "decision",
        "outcomes",
        "marks",
        "outbox",
        "sync",
        "supervisor",
        "drill",
        "backup",
        "cli",
        "hosting",
    ),
}


#: An application like any other; the drill starts a box that imports it.
DRILLS_APPLICATION = PACKAGE / "drill" / "hosted"


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_build.py")


def layer_of(module: str) -> str:
    """The layer of a dotted name such as ``edgepaas.files.paths``."""
    parts = module.split(".")
    own = len(parts) < 2 or parts[1].startswith("__")  # edgepaas.__version__
    return "__init__" if own else parts[1]


def imports_of(path: Path, *, top_level_only: bool, types_too: bool = False) -> list[str]:
    """What *path* imports, as ``module`` or ``module.name``.

    What stands under TYPE_CHECKING is left out, unless *types_too*.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if guarded and not types_too:
                continue
            if isinstance(child, ast.Import):
                found.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                found.extend(f"{child.module}.{alias.name}" for alias in child.names)
            elif top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            else:
                visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    own = parts[0]
    wrong = [
        name
        for name in imports_of(path, top_level_only=False)
        if name.split(".")[0] == "edgepaas" and RANK[layer_of(name)] > RANK[own]
    ]
    assert not wrong, f"{path.name} (layer {own}) imports upwards: {wrong}"


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in modules()
        if p.relative_to(PACKAGE).with_suffix("").parts[0] in LEAN
        and not p.is_relative_to(DRILLS_APPLICATION)
    ],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_a_lean_stage_imports_nothing_heavy_at_its_top(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports_of(path, top_level_only=True)} & HEAVY
    assert not heavy


@pytest.mark.parametrize("application", ["telemetry", "drill.hosted"])
def test_an_application_that_comes_along_uses_the_public_interface_alone(application: str) -> None:
    """As any application does: what ``edgepaas.app`` does not offer, it does without."""
    files = sorted(PACKAGE.joinpath(*application.split(".")).rglob("*.py"))
    assert files
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in files
        for name in imports_of(path, top_level_only=False, types_too=True)
        if is_of_the_platform(name, own=f"edgepaas.{application}")
    }
    assert not wrong


@pytest.mark.parametrize("folder", ["alembic", "tests/support/second_application"])
def test_migrations_and_the_second_application_use_it_alone_too(folder: str) -> None:
    files = sorted((PACKAGE.parent / folder).rglob("*.py"))
    assert files
    wrong = {
        f"{path.relative_to(PACKAGE.parent)} imports {name}"
        for path in files
        for name in imports_of(path, top_level_only=False, types_too=True)
        if is_of_the_platform(name)
    }
    assert not wrong


@pytest.mark.parametrize(
    ("name", "internal"),
    [
        ("edgepaas.app", False),
        ("edgepaas.app.models", False),
        ("edgepaas.telemetry.intake", False),
        ("sqlalchemy", False),
        ("edgepaas", True),
        ("edgepaas.apikit.blueprint", True),
        ("edgepaas.files.locks", True),
        ("edgepaas.application", True),
    ],
)
def test_what_belongs_to_the_platform_is_told_by_its_name(name: str, internal: bool) -> None:
    assert is_of_the_platform(name, own="edgepaas.telemetry") is internal


def is_of_the_platform(module: str, *, own: str = "") -> bool:
    """Whether *module* is the platform's and not public; *own* is the package that asks."""
    if module.partition(".")[0] != "edgepaas":
        return False
    public = ("edgepaas.app", own) if own else ("edgepaas.app",)
    return not any(module == name or module.startswith(f"{name}.") for name in public)


#: What the public interface stands on: each of these it offers, whole or in part.
OFFERED = {
    *("alerts", "apikit", "database", "decision", "errors", "files", "settings", "terminal"),
    *("http_client", "timing"),
}


def test_the_public_interface_imports_no_room_that_it_does_not_offer() -> None:
    found = {
        layer_of(name)
        for path in sorted((PACKAGE / "app").glob("*.py"))
        for name in imports_of(path, top_level_only=False, types_too=True)
        if name.startswith("edgepaas.")
    }
    assert found - {"app", "__init__"} <= OFFERED


def test_the_public_interface_lists_its_modules() -> None:
    """The first thing that an author reads names every module that may be imported."""
    listed = (ast.get_docstring(ast.parse((PACKAGE / "app/__init__.py").read_text())) or "").split()
    inner = {"application", "box", "__init__"}  # offered by edgepaas.app itself
    public = {path.stem for path in (PACKAGE / "app").glob("*.py")} - inner
    assert {f"``edgepaas.app.{name}``" for name in public} <= set(listed)


def test_every_layer_is_named() -> None:
    found = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in modules()}
    assert found <= set(RANK), f"no layer for {found - set(RANK)}"


#: More files than this in one folder, and a reader has to guess which of them matters.
FILES_IN_A_ROOM = 16


@pytest.mark.parametrize(
    "room", sorted({p.parent for p in modules()}), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_room_holds_no_more_files_than_a_reader_can_survey(room: Path) -> None:
    assert len(list(room.glob("*.py"))) <= FILES_IN_A_ROOM


def test_sibling_rooms_do_not_import_each_other_in_a_circle() -> None:
    """Between the sub-rooms of one room, too, imports point one way."""
    below: dict[str, set[str]] = {}
    for path in modules():
        here = ".".join(path.relative_to(PACKAGE).parts[:-1])
        for name in imports_of(path, top_level_only=False):
            if not name.startswith("edgepaas."):
                continue
            there = _room_of(name)
            parent, _, _ = here.rpartition(".")
            if there != here and parent and there.rpartition(".")[0] == parent:
                below.setdefault(here, set()).add(there)
    circle = _circle(below)
    assert not circle, " -> ".join(circle)


def test_no_module_imports_itself_through_others() -> None:
    """Not even in a function: two modules that need each other are one, or lack a third."""
    known = {_dotted(path): path for path in modules()}
    edges = {
        module: {_module_of(name, known) for name in imports_of(path, top_level_only=False)}
        - {module, ""}
        for module, path in known.items()
    }
    circle = _circle(edges)
    assert not circle, " -> ".join(circle)


def _dotted(path: Path) -> str:
    parts = ("edgepaas", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_of(name: str, known: Mapping[str, Path]) -> str:
    """The module that a dotted *name* is or lies in; empty for one that is not ours."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def _room_of(module: str) -> str:
    """The folder, dotted and without ``edgepaas``, that holds the *module* or package."""
    parts = module.split(".")[1:]
    while parts and not (PACKAGE.joinpath(*parts)).is_dir():
        parts.pop()
    return ".".join(parts)


def _circle(edges: Mapping[str, set[str]]) -> list[str]:
    """A path that ends where it starts; empty if there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_would_be_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert not _circle({"a": {"b", "c"}, "b": {"c"}})
