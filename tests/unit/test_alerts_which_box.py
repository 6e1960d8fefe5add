# SPDX-License-Identifier: Apache-2.0
"""Two boxes with one host name are two boxes, to people and to receivers."""

from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts.channels.config import load_config
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.webhook_formats import find_format
from edgepaas.alerts.channels.wording import BoxIdentity, text
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths, find_paths
from edgepaas.settings import Settings


@pytest.fixture
def twins(tmp_path: Path) -> list[BoxIdentity]:
    """Two boxes that are called alike, as a cloned card makes them."""
    found = []
    for name in ("one", "two"):
        paths = find_paths({"EDGEPAAS_HOME": str(tmp_path / name)})
        paths.create()
        node = node_identity(paths)
        Settings.of(NODE_NAME="box-7").write(paths.env_contract)
        box = load_config(paths).box
        assert node.node_id.startswith(box.node)
        found.append(box)
    return found


def note() -> Notification:
    return Notification("k", "raised", "warning", "pump", "test", "dry", condition="c", last=2e9)


def test_people_read_which_of_them_it_is(twins: list[BoxIdentity]) -> None:
    said = [text(note(), box) for box in twins]
    assert said[0] != said[1]
    for box, words in zip(twins, said, strict=True):
        assert f"box-7, node {box.node}" in words


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("json", ("node",)),
        ("pagerduty", ("dedup_key",)),
        ("alertmanager", (0, "labels")),
    ],
)
def test_receivers_do_not_take_them_for_one(
    twins: list[BoxIdentity], word: str, path: tuple[str | int, ...]
) -> None:
    keys = []
    for box in twins:
        document: Any = find_format(word, "https://receiver.example/").document(note(), box)
        for step in path:
            document = document[step]
        keys.append(document)
    assert keys[0] != keys[1]


def test_a_box_without_an_id_notifies_all_the_same(paths: Paths) -> None:
    assert load_config(paths).box.node == ""
    paths.node.write_text("no record")
    assert load_config(paths).box.node == ""
