# SPDX-License-Identifier: Apache-2.0
"""Who a box is: made once, kept, and made anew on another machine."""

import json
import multiprocessing
import uuid
from pathlib import Path

import pytest

from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths, find_paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = find_paths({"EDGEPAAS_HOME": str(tmp_path / "home")})
    found.create()
    return found


def machine(folder: Path, text: str) -> Path:
    """Return a file like /etc/machine-id."""
    path = folder / "machine-id"
    path.write_text(text)
    return path


ONE, OTHER = "1" * 32, "2" * 32


def test_an_identity_is_made_once_and_kept(paths: Paths, tmp_path: Path) -> None:
    node = node_identity(paths, machine_id=machine(tmp_path, f"{ONE}\n"))
    assert uuid.UUID(node.node_id) and node.made_at.endswith("Z")
    assert node_identity(paths, machine_id=tmp_path / "machine-id") == node
    assert paths.node.stat().st_mode & 0o777 == 0o600
    assert ONE not in paths.node.read_text(), "machine-id is confidential"


def test_a_cloned_card_is_another_box(paths: Paths, tmp_path: Path) -> None:
    """And remembers whose clone it is."""
    before = node_identity(paths, machine_id=machine(tmp_path, ONE))
    after = node_identity(paths, machine_id=machine(tmp_path, OTHER))
    assert after.node_id != before.node_id
    assert after.was == (before.node_id,)
    assert node_identity(paths, machine_id=tmp_path / "machine-id") == after


@pytest.mark.parametrize("text", ["", "uninitialized\n", "ä" * 32])
def test_a_machine_without_an_id_keeps_what_is_there(
    text: str, paths: Paths, tmp_path: Path
) -> None:
    """And one that gets its id later is still the same box."""
    node = node_identity(paths, machine_id=machine(tmp_path, text))
    assert node_identity(paths, machine_id=tmp_path / "none") == node
    later = node_identity(paths, machine_id=machine(tmp_path, ONE))
    assert later.node_id == node.node_id
    assert later.machine
    assert node_identity(paths, machine_id=tmp_path / "none") == later
    assert node_identity(paths, machine_id=machine(tmp_path, OTHER)).node_id != node.node_id


@pytest.mark.parametrize("content", ["", "{", "[]", '{"node_id": "x"}', "null"])
def test_a_torn_file_is_made_anew_and_said(
    content: str, paths: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths.node.write_text(content)
    node = node_identity(paths, machine_id=tmp_path / "none")
    assert json.loads(paths.node.read_text())["node_id"] == node.node_id
    assert "cannot be read" in caplog.text


def _identity(paths: Paths) -> str:
    return node_identity(paths).node_id


def test_processes_that_start_at_once_agree(paths: Paths) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_identity, [paths] * 8))) == 1
