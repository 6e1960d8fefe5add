# SPDX-License-Identifier: Apache-2.0
"""No test passes by merely not raising: each asserts an outcome, or expects an exception."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
#: With pytest's own ways of demanding an outcome.
DEMANDS = {"raises", "warns", "fail"}


def functions_of(path: Path) -> list[ast.FunctionDef]:
    """Every test function of a module, those in classes as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def demands_an_outcome(function: ast.FunctionDef) -> bool:
    """Whether it asserts, or names one of pytest's demands."""
    return any(
        isinstance(node, ast.Assert) or (isinstance(node, ast.Attribute) and node.attr in DEMANDS)
        for node in ast.walk(function)
    )


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_every_test_demands_an_outcome(path: Path) -> None:
    silent = [f.name for f in functions_of(path) if not demands_an_outcome(f)]
    assert not silent, f"{path.name}: these pass whenever nothing raises: {silent}"


def test_a_silent_test_is_found() -> None:
    (silent, loud) = ast.parse("def test_a(): f()\ndef test_b():\n with pytest.raises(X): f()").body
    assert isinstance(silent, ast.FunctionDef)
    assert isinstance(loud, ast.FunctionDef)
    assert (demands_an_outcome(silent), demands_an_outcome(loud)) == (False, True)
