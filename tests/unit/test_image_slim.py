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


def test_installed_applications_keep_what_their_api_says_of_itself(
    slim: ModuleType, tmp_path: Path
) -> None:
    """Whoever brings them, by what they announce themselves with."""
    for folder in ("meter/views", "library", "edgepaas/web", "meter-1.0.dist-info"):
        (tmp_path / folder).mkdir(parents=True)
    announced = "[edgepaas.application]\nmeter = meter:application\n[other]\nlibrary = library:it\n"
    (tmp_path / "meter-1.0.dist-info/entry_points.txt").write_text(announced)
    (tmp_path / "meter-1.0.dist-info/METADATA").write_text("Name: meter\nVersion: 1.0\n")
    assert slim.with_docstrings(tmp_path) == {tmp_path / "meter", tmp_path / "edgepaas/web"}


def test_libraries_load_without_their_docstrings(slim: ModuleType, tmp_path: Path) -> None:
    """Flask and SQLAlchemy with its drivers, from byte-code that is made as the image's is."""
    import flask
    import pg8000
    import sqlalchemy

    folder = Path(sqlalchemy.__file__).parent.parent
    documented = slim.with_docstrings(folder)
    assert any(path.name == "events.py" for path in documented)
    cache = tmp_path / "cache"
    options = ["-X", f"pycache_prefix={cache}"]
    loading = (
        "import flask, sqlalchemy.orm, sqlalchemy.dialects.sqlite, pg8000.dbapi\n"
        "import sqlalchemy.dialects.postgresql.pg8000\n"
        "from sqlalchemy import create_engine, event\n"
        "event.listen(create_engine('sqlite://'), 'connect', lambda *_: None)\n"
        "print(flask.Flask.__doc__ is None, sqlalchemy.Table.__doc__ is None)\n"
    )

    def load() -> str:
        return subprocess.run(
            [sys.executable, *options, "-c", loading], capture_output=True, text=True, check=True,
            timeout=300, env={"PATH": "/usr/bin:/bin"},
        ).stdout  # fmt: skip

    assert load() == "False False\n"
    stripped = 0
    for library in (flask, sqlalchemy, pg8000):
        below = Path(str(library.__file__)).parent
        for byte_code in (cache / below.relative_to("/")).rglob("*.pyc"):
            source = Path("/") / byte_code.parent.relative_to(cache)
            source /= f"{byte_code.name.partition('.')[0]}.py"
            if source not in documented:
                byte_code.write_bytes(slim.without_docstrings(source, byte_code.read_bytes()))
                stripped += 1
    assert stripped > 100
    assert load() == "True True\n"
