# SPDX-License-Identifier: Apache-2.0
"""The service's word for its box, as the processes beside it read it."""

import json
import logging
import subprocess
import sys

import pytest

from edgepaas.files.paths import Paths
from edgepaas.files.published_state import StateWord, leave_word, read_word
from edgepaas.health.state import STATES, StateBoard
from edgepaas.service.publish_state import StateFile
from tests.support.telemetry_box import contract_for

_LEAVE = """
from edgepaas.files.paths import find_paths
from edgepaas.files.published_state import leave_word
leave_word(find_paths({"EDGEPAAS_HOME": %r}), "primary")
"""


def test_the_word_of_a_process_that_runs_is_a_living_one(paths: Paths) -> None:
    assert read_word(paths) is None
    for word in STATES:
        leave_word(paths, word)
        assert read_word(paths) == StateWord(word, living=True)
    assert paths.state_word.stat().st_mode & 0o077 == 0


def test_the_word_of_a_process_that_is_gone_is_not(paths: Paths) -> None:
    subprocess.run([sys.executable, "-c", _LEAVE % paths.home], check=True)
    assert read_word(paths) == StateWord("primary", living=False)


def test_another_process_that_got_the_same_id_says_nothing(paths: Paths) -> None:
    leave_word(paths, "primary")
    entry = json.loads(paths.state_word.read_text())
    paths.state_word.write_text(json.dumps(entry | {"started": entry["started"] + 1}))
    assert read_word(paths) == StateWord("primary", living=False)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"state": "primary"}', '{"state": "a b", "pid": 1, "started": 1}'],
)
def test_what_cannot_be_understood_is_no_word(paths: Paths, content: str) -> None:
    paths.state_word.write_text(content)
    assert read_word(paths) is None


def test_a_word_from_before_the_box_was_switched_off_is_none(paths: Paths) -> None:
    leave_word(paths, "primary")
    entry = json.loads(paths.state_word.read_text())
    paths.state_word.write_text(json.dumps(entry | {"boot_id": "another"}))
    assert read_word(paths) is None


def test_the_service_writes_its_word_only_when_it_is_another(paths: Paths) -> None:
    board = StateBoard(contract_for(paths, None))
    file = StateFile(paths, board)

    def left() -> str | None:
        file.publish()
        said = read_word(paths)
        return None if said is None else said.word

    assert left() == "starting"
    board.phase = "running"
    assert left() == "standalone"
    board.note("test", "something is wrong")
    assert left() == "degraded"
    paths.state_word.unlink()
    assert left() is None
    board.phase = "stopping"
    assert left() == "stopping"


def test_a_folder_that_takes_no_word_is_logged_once_and_tried_again(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    paths.state_word.mkdir()
    file = StateFile(paths, StateBoard(contract_for(paths, None)))
    with caplog.at_level(logging.WARNING, "edgepaas.service"):
        for _ in range(3):
            file.publish()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(paths.state_word) in caplog.text
    paths.state_word.rmdir()
    file.publish()
    assert read_word(paths) == StateWord("starting", living=True)
    assert not list(paths.runtime.glob(".*.tmp"))
