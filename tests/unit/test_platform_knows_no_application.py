# SPDX-License-Identifier: Apache-2.0
"""Nothing in the platform knows the built-in application: it is the default, and no more."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
BUILT_IN = "telemetry"

#: Where its name may stand: the default of EDGEPAAS_APP, the entry point of its wheel, and the
#: box that the tests open, of which docs/api.md is written.
ALLOWED = {
    "edgepaas/settings/table.py": f'        "{BUILT_IN}",',
    "packaging/tools/reference.py": f"    from tests.support.{BUILT_IN}_box import open_box",
    "pyproject.toml": f'{BUILT_IN} = "edgepaas.{BUILT_IN}:application"',
}


def platform_files() -> list[Path]:
    """Every file of the platform that is written by hand, the built-in application's left out."""
    found = [ROOT / "pyproject.toml"]
    for folder in ("edgepaas", "packaging", "systemd"):
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    left_out = (ROOT / "edgepaas" / BUILT_IN, ROOT / "edgepaas" / "_alembic")
    return [
        path
        for path in found
        if "__pycache__" not in path.parts and not any(path.is_relative_to(f) for f in left_out)
    ]


def mentions(path: Path) -> list[str]:
    """Return the lines of *path* in which the built-in application is named."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []  # an image, a font
    return [line for line in lines if re.search(BUILT_IN, line, re.IGNORECASE)]


def test_no_file_of_the_platform_names_the_built_in_application() -> None:
    found = {str(path.relative_to(ROOT)): mentions(path) for path in platform_files()}
    unexpected = {
        name: lines for name, lines in found.items() if lines and lines != [ALLOWED.get(name)]
    }
    assert not unexpected


def test_its_name_stands_where_it_is_allowed() -> None:
    """Or the list above is out of date."""
    for name, line in ALLOWED.items():
        assert line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert SETTINGS["EDGEPAAS_APP"].default == BUILT_IN


@pytest.fixture
def without(tmp_path: Path) -> Path:
    """The package without the built-in application's folder, and another application beside it."""
    shutil.copytree(
        ROOT / "edgepaas",
        tmp_path / "edgepaas",
        ignore=shutil.ignore_patterns("__pycache__", BUILT_IN, "_alembic"),
    )
    # The platform's own migrations, and none of an application's.
    shutil.copytree(
        ROOT / "alembic" / "platform",
        tmp_path / "alembic" / "platform",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "tests/support/second_application/one_file.py", tmp_path / "notes.py")
    return tmp_path


def run(folder: Path, *arguments: str, application: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(folder),
            "EDGEPAAS_HOME": str(folder / "home"),
            "EDGEPAAS_APP": application,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_whole_chain_runs_without_its_folder(without: Path) -> None:
    """Environment, decision, schema and the gate, with another application."""
    for stage in ("env", "dbdecide", "schema", "verify"):
        done = run(without, "edgepaas", stage, application="notes:application")
        assert done.returncode == 0, f"{stage}: {done.stderr}"
    assert "notes" in run(without, "edgepaas", "settings", application="notes:application").stdout


def test_without_it_the_default_application_is_reported_and_named(without: Path) -> None:
    """The environment stage does its work; the schema stage ends with what to do."""
    assert run(without, "edgepaas", "env", application=BUILT_IN).returncode == 0
    assert run(without, "edgepaas", "dbdecide", application=BUILT_IN).returncode == 0
    done = run(without, "edgepaas", "schema", application=BUILT_IN)
    assert done.returncode == 78
    assert f"EDGEPAAS_APP={BUILT_IN}: the application cannot be loaded" in done.stderr
