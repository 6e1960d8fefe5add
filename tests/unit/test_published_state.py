# SPDX-License-Identifier: Apache-2.0
"""The service's word for its box, as the processes beside it read it."""

import json
import logging
import subprocess
import sys

import pytest

from edgepaas.files.paths import Paths
from edgepaas.files.published_state import PublishedState, publish_state, read_published_state
from edgepaas.health.state import STATES, StateBoard
from edgepaas.service.publish_state import StatePublisher
from tests.support.telemetry_box import contract_for

_LEAVE = """
from edgepaas.files.paths import find_paths
from edgepaas.files.published_state import publish_state
publish_state(find_paths({"EDGEPAAS_HOME": %r}), "primary")
"""


def test_the_word_of_a_process_that_runs_is_a_living_one(paths: Paths) -> None:
    assert read_published_state(paths) is None
    for word in STATES:
        publish_state(paths, word)
        assert read_published_state(paths) == PublishedState(word, running=True)
    assert paths.published_state.stat().st_mode & 0o077 == 0


def test_the_word_of_a_process_that_is_gone_is_not(paths: Paths) -> None:
    subprocess.run([sys.executable, "-c", _LEAVE % paths.home], check=True)
    assert read_published_state(paths) == PublishedState("primary", running=False)


def test_another_process_that_got_the_same_id_says_nothing(paths: Paths) -> None:
    publish_state(paths, "primary")
    entry = json.loads(paths.published_state.read_text())
    paths.published_state.write_text(json.dumps(entry | {"started": entry["started"] + 1}))
    assert read_published_state(paths) == PublishedState("primary", running=False)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"state": "primary"}', '{"state": "a b", "pid": 1, "started": 1}'],
)
def test_what_cannot_be_understood_is_no_word(paths: Paths, content: str) -> None:
    paths.published_state.write_text(content)
    assert read_published_state(paths) is None


def test_a_word_from_before_the_box_was_switched_off_is_none(paths: Paths) -> None:
    publish_state(paths, "primary")
    entry = json.loads(paths.published_state.read_text())
    paths.published_state.write_text(json.dumps(entry | {"boot_id": "another"}))
    assert read_published_state(paths) is None


def test_the_service_writes_its_word_only_when_it_is_another(paths: Paths) -> None:
    board = StateBoard(contract_for(paths, None))
    file = StatePublisher(paths, board)

    def left() -> str | None:
        file.publish()
        said = read_published_state(paths)
        return None if said is None else said.state

    assert left() == "starting"
    board.phase = "running"
    assert left() == "standalone"
    board.note("test", "something is wrong")
    assert left() == "degraded"
    paths.published_state.unlink()
    assert left() is None
    board.phase = "stopping"
    assert left() == "stopping"


def test_a_folder_that_takes_no_word_is_logged_once_and_tried_again(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    paths.published_state.mkdir()
    file = StatePublisher(paths, StateBoard(contract_for(paths, None)))
    with caplog.at_level(logging.WARNING, "edgepaas.service"):
        for _ in range(3):
            file.publish()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(paths.published_state) in caplog.text
    paths.published_state.rmdir()
    file.publish()
    assert read_published_state(paths) == PublishedState("starting", running=True)
    assert not list(paths.runtime.glob(".*.tmp"))
