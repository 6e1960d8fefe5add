# SPDX-License-Identifier: Apache-2.0
"""The insides of other libraries are known to one adapter each, and bounded by a version."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgepaas"

#: The modules of each library that an adapter alone may import, and that adapter.
ADAPTERS = {
    "waitress": "httpd/waitress_adapter.py",
    "pg8000": "pgdriver/pg8000_adapter.py",
    "scramp": "pgdriver/pg8000_adapter.py",
    "sqlalchemy.util": "database/postgresql/pool_adapter.py",
    "flask_smorest": "apikit/smorest_adapter.py",
    "webargs": "apikit/smorest_adapter.py",
    "werkzeug": "apikit/werkzeug_adapter.py",
    "urllib3": "http_client/urllib3_adapter.py",
    # Names of the standard library, which everything imports.
    "atexit._run_exitfuncs": "supervisor/interpreter_adapter.py",
    "threading._shutdown": "supervisor/interpreter_adapter.py",
}
#: What has no documented subclasses, by its module: only the adapter makes one.
SUBCLASSED = {"QueuePool": "database/postgresql/pool_adapter.py"}
#: Adapters to what their library lets anybody import.
OTHER_ADAPTERS = {"cli/command_tree.py", "schema/renames/copied_columns.py"}
#: What a library documents in spite of its underscore.
DOCUMENTED = {"os._exit"}
#: The distributions with an upper bound, which is what the contract tests were not run with.
BOUNDED = (
    *("waitress", "pg8000", "sqlalchemy", "flask-smorest"),
    *("webargs", "werkzeug", "urllib3"),
)


def modules() -> list[Path]:
    return sorted(
        path
        for path in PACKAGE.rglob("*.py")
        if path.name != "_build.py" and "_alembic" not in path.parts
    )


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@cache
def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_a_library_with_an_adapter_is_imported_by_that_one_alone() -> None:
    foreign = [
        f"{name_of(path)} imports {name}: use {adapter}"
        for path in modules()
        for name in imports_of(path)
        for library, adapter in ADAPTERS.items()
        if name_of(path) != adapter and (name == library or name.startswith(f"{library}."))
    ]
    assert not foreign


def test_only_an_adapter_makes_a_subclass_of_what_has_none_by_its_documentation() -> None:
    wrong = [
        f"{name_of(path)}: class {node.name}: derive it from a class of {adapter}"
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
        for base, adapter in SUBCLASSED.items()
        if base in {ast.unparse(one).rpartition(".")[2] for one in node.bases}
        and name_of(path) != adapter
    ]
    assert not wrong


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


@cache
def own_names(path: Path) -> set[str]:
    """Every private name that the module itself makes: functions, attributes, variables."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if private(name)}


@cache
def library_names(adapter: Path) -> set[str]:
    """Every private attribute that the adapter reads or sets, but for its own functions."""
    nodes = list(ast.walk(tree_of(adapter)))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    hooks = {"_do_get", "_do_return_conn", "_register_error_handlers"}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return {name for name in attributes if private(name)} - (functions - hooks)


def foreign_names(path: Path, known: set[str]) -> list[str]:
    """Every private attribute that is read and that nothing in the package has made."""
    return sorted(
        f"{ast.unparse(node)} (line {node.lineno})"
        for node, name in private_reads(path)
        if name not in known and ast.unparse(node) not in DOCUMENTED
    )


def private_reads(path: Path) -> Iterator[tuple[ast.expr, str]]:
    """Give each ``x._name`` and ``getattr(x, "_name")`` of the module."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and private(node.attr):
            yield node, node.attr
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "hasattr", "setattr")
            and isinstance(node.args[1], ast.Constant)
            and private(str(node.args[1].value))
        ):
            yield node, str(node.args[1].value)


def test_no_module_but_an_adapter_touches_a_private_name_of_a_library() -> None:
    """A name counts as ours where its own module makes it, or a class that it derives from."""
    adapters = set(ADAPTERS.values()) | OTHER_ADAPTERS
    ours = [path for path in modules() if name_of(path) not in adapters]
    everywhere = {name for path in ours for name in own_names(path)}
    found = {name_of(path): foreign_names(path, everywhere) for path in ours}
    assert not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize("adapter", sorted({*ADAPTERS.values(), *OTHER_ADAPTERS}))
def test_a_private_name_that_an_adapter_uses_is_in_no_other_module_of_its_room(
    adapter: str,
) -> None:
    """Our own attributes may not hide that a library's of the same name is meant."""
    path = PACKAGE / adapter
    used = library_names(path)
    importing = f"edgepaas.{adapter.removesuffix('.py').replace('/', '.')}"
    for other in modules():
        if other == path or importing not in imports_of(other):
            continue
        names = {node.attr for node in ast.walk(tree_of(other)) if isinstance(node, ast.Attribute)}
        assert not names & used, f"{name_of(other)} has names that {adapter} takes from a library"


@pytest.mark.parametrize("adapter", sorted({*ADAPTERS.values(), *OTHER_ADAPTERS}))
def test_an_adapter_names_all_that_it_touches(adapter: str) -> None:
    """Each private name of a library stands in the adapter's text, for whoever updates it."""
    path = PACKAGE / adapter
    used = library_names(path)
    text = ast.get_docstring(tree_of(path)) or ""
    described = {name for name in used if name in text}
    # Waitress' are one-line functions that say what they are for.
    assert used == described or adapter == "httpd/waitress_adapter.py"


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {(found := Requirement(text)).name: found for text in project["dependencies"]}


@pytest.mark.parametrize("name", BOUNDED)
def test_the_versions_of_a_library_with_an_adapter_end_before_the_first_untested_one(
    name: str,
) -> None:
    """The tested version is allowed, the next minor one is not."""
    tested = version(name)
    allowed = requirements()[name].specifier
    major, minor, *_ = map(int, re.findall(r"\d+", tested))
    assert tested in allowed
    assert f"{major}.{minor + 1}.0" not in allowed
    assert f"{major + 1}.0.0" not in allowed


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_pinned_is_what_is_allowed(name: str) -> None:
    """The constraints of a development environment and the package's lock."""
    allowed = requirements()[name].specifier
    for file in ("constraints.txt", "runtime.lock"):
        text = (ROOT / "packaging" / "python" / file).read_text(encoding="utf-8")
        pinned = re.search(rf"^{name}==(\S+)", text, re.MULTILINE | re.IGNORECASE)
        assert pinned, f"{name} is not pinned in {file}"
        assert pinned[1] in allowed
