# SPDX-License-Identifier: Apache-2.0
"""Two boxes with one host name are two boxes, to people and to receivers."""

from dataclasses import replace
from email import message_from_bytes
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts.channels.config import load_config
from edgepaas.alerts.channels.email_channel import EmailChannel
from edgepaas.alerts.channels.mail_message import compose_mail
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


def subject(box: BoxIdentity, notification: Notification) -> str:
    channel = EmailChannel("mail.test", 25, "none", "", "", "a@b.example", ("c@d.example",), 5.0)
    raw = message_from_bytes(compose_mail(channel, notification, box))["Subject"]
    return str(make_header(decode_header(raw)))


@pytest.mark.parametrize("what", ["raised", "resolved", "passed", "flapping", "digest", "test"])
@pytest.mark.parametrize("message", ["dry", "pümpe =?utf-8?q?x?=", "long " * 100])
def test_the_line_that_a_list_shows_tells_them_apart(
    twins: list[BoxIdentity], what: Any, message: str
) -> None:
    """A mail's subject, a card's heading, the first line of a chat, an incident's summary."""
    said = replace(note(), what=what, message=message)
    for shown in (
        lambda box: subject(box, said),
        lambda box: find_format("slack", "").document(said, box)["text"].split("\n")[0],
        lambda box: find_format("discord", "").document(said, box)["content"].split("\n")[0],
        lambda box: str(find_format("teams", "").document(said, box)["attachments"][0]["content"]
                        ["body"][0]),
        lambda box: find_format("ntfy", "").headers(said, box, "")["X-Title"],
        lambda box: find_format("pagerduty", "").document(said, box)["payload"]["summary"],
        lambda box: find_format("pagerduty", "").document(said, box)["payload"]["source"],
        lambda box: find_format("alertmanager", "").document(said, box)[0]["annotations"]
                    ["summary"],
        lambda box: find_format("json", "").document(said, box)["title"],
    ):  # fmt: skip
        first, second = map(shown, twins)
        assert first != second
    assert subject(twins[0], said).split("] ")[1].startswith(f"box-7 ({twins[0].node}): ")


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
