"""Imports point one way: a layer imports what lies below it; the command line wires them."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "edgepaas"

#: From the ground up. A module may import its own layer and those before it.
LAYERS = (
    {"errors", "build", "_build", "__init__"},
    {"files"},
    {"logs"},
    {"settings"},
    {"alerts"},
    {"postgres"},
    {"decision"},
    {"database"},
    {"outbox"},
    {"application"},
    {"schema"},
    {"sync"},
    {"health"},
    {"web"},
    {"telemetry"},
    {"service"},
    {"cli", "__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

#: Reached from the command line alone: importing one of these is somebody's start-up time.
HEAVY = {"sqlalchemy", "alembic", "flask", "flask_smorest", "marshmallow", "requests", "pg8000"}
LEAN = {
    *("errors", "build", "files", "logs", "settings", "alerts", "decision", "postgres"),
    *("outbox", "sync", "cli"),
}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_build.py")


def layer_of(module: str) -> str:
    """The layer of a dotted name such as ``edgepaas.files.paths``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path, *, top_level_only: bool) -> list[str]:
    """Every module that *path* imports; those under TYPE_CHECKING cost nothing and are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                found.append(child.module)
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
    [p for p in modules() if p.relative_to(PACKAGE).with_suffix("").parts[0] in LEAN],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_a_lean_stage_imports_nothing_heavy_at_its_top(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports_of(path, top_level_only=True)} & HEAVY
    assert not heavy


def test_every_layer_is_named() -> None:
    found = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in modules()}
    assert found <= set(RANK), f"no layer for {found - set(RANK)}"
