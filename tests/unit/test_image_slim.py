# SPDX-License-Identifier: Apache-2.0
"""The image's byte-code: docstrings are gone, and nothing that a program does is."""

import importlib.util
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SLIM = Path(__file__).resolve().parents[2] / "packaging/docker/slim.py"

SOURCE = '''\
"""The module."""
from __future__ import annotations


class Documented:
    """Only this."""


class Both:
    """Words."""

    value = "text"


def documented():
    """Only this."""


async def later():
    """Words."""
    return 2


def checked(number):
    """Words."""
    assert number > 0, "not positive"
    "a text that is no docstring"
    return number


def fails():
    raise ValueError("here")
'''


@pytest.fixture(scope="module")
def slim() -> ModuleType:
    """``slim.py``, which the image is built with."""
    loader = SourceFileLoader("slim", str(SLIM))
    spec = importlib.util.spec_from_loader("slim", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_docstrings_go_and_assertions_lines_and_the_check_of_the_source_stay(
    slim: ModuleType, tmp_path: Path
) -> None:
    """Imported by another Python from the byte-code, as the image does."""
    source = tmp_path / "stripped.py"
    source.write_text(SOURCE)
    script = (
        "import json, sys, traceback\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import stripped\n"
        "named = [stripped.Documented, stripped.Both, stripped.documented, stripped.later]\n"
        "docs = [one.__doc__ for one in [stripped, stripped.checked, *named]]\n"
        "try:\n    stripped.checked(0)\n    assertion = ''\n"
        "except AssertionError as error:\n    assertion = str(error)\n"
        "try:\n    stripped.fails()\n"
        "except ValueError as error:\n"
        "    line = traceback.extract_tb(error.__traceback__)[-1].lineno\n"
        "print(json.dumps([docs, assertion, line, stripped.Both.value, stripped.checked(3),\n"
        "                  stripped.documented()]))\n"
    )

    def imported() -> str:
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60,
            env={"PATH": "/usr/bin:/bin"},
        ).stdout  # fmt: skip

    fails_at = SOURCE.splitlines().index('    raise ValueError("here")') + 1
    rest = f'"not positive", {fails_at}, "text", 3, null]\n'
    assert '"Only this."' in imported()
    (byte_code,) = (tmp_path / "__pycache__").iterdir()
    before = byte_code.read_bytes()
    byte_code.write_bytes(slim.without_docstrings(source, before))
    after = byte_code.read_bytes()
    assert after[: slim.HEADER] == before[: slim.HEADER]
    assert len(after) < len(before)
    assert imported() == f"[[null, null, null, null, null, null], {rest}"
    assert byte_code.read_bytes() == after, "Python took it for current"


def test_what_the_platform_says_of_itself_keeps_its_docstrings(slim: ModuleType) -> None:
    """The API's description is made of them; a library's are help() alone."""
    ours, library = (
        "/usr/share/edgepaas/lib/edgepaas/cli/x.py",
        "/usr/share/edgepaas/lib/flask/x.py",
    )
    assert Path(ours).is_relative_to(slim.WITH_DOCSTRINGS)
    assert not Path(library).is_relative_to(slim.WITH_DOCSTRINGS)
