# SPDX-License-Identifier: Apache-2.0
"""The published status: when it is written, what outlives the drainer, what is unreadable."""

import os
import time

import pytest

from edgepaas.files.paths import Paths
from edgepaas.sync import status as sync_status
from edgepaas.sync.report import LiveStatus, StatusPublisher


class Clock:
    """A clock that the test advances."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_status_is_written_when_it_changes_and_as_a_sign_of_life(paths: Paths) -> None:
    clock = Clock()
    report = LiveStatus(node_id="n")
    publisher = StatusPublisher(paths, report, clock=clock)
    publisher.publish()
    first = sync_status.read(paths)
    assert first is not None
    assert (first.node_id, first.pid, first.fresh) == ("n", os.getpid(), True)
    paths.sync_status.unlink()
    clock.now += 1
    publisher.publish()
    assert not paths.sync_status.exists()
    report.state = "draining"
    publisher.publish()
    assert paths.sync_status.exists()
    paths.sync_status.unlink()
    clock.now += 10
    publisher.publish()
    assert paths.sync_status.exists()


def test_since_when_rows_wait_outlives_the_drainer(paths: Paths) -> None:
    report = LiveStatus(node_id="n")
    report.set_waiting(3, time.time() - 100)
    StatusPublisher(paths, report).publish()
    again = LiveStatus(node_id="n")
    StatusPublisher(paths, again).restore()
    again.set_waiting(5, time.time())
    assert again.waiting_since == report.waiting_since
    again.set_waiting(0, time.time())
    assert again.waiting_since is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"state": "odd", "hub": "ok"}', "\0"])
def test_a_status_that_cannot_be_understood_is_none(paths: Paths, content: str) -> None:
    paths.sync_status.write_text(content)
    assert sync_status.read(paths) is None
