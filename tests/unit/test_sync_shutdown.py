# SPDX-License-Identifier: Apache-2.0
"""How the drainer stops: a new decision, a dead parent, a stop request."""

import os
import threading

import pytest

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE
from edgepaas.files.paths import Paths
from edgepaas.sync.shutdown import Stopped, StopRequest, StopWatcher
from tests.support.service_process import until, write_db_contract


def test_a_new_decision_ends_it_with_75(paths: Paths) -> None:
    write_db_contract(paths, generation="1")
    watch = StopWatcher(StopRequest(), paths.db_contract, "1")
    assert watch.changed() == ""
    write_db_contract(paths, generation="2")
    assert "a new decision was made" in watch.changed()


def test_a_withdrawn_decision_stops_it_at_once_and_aborts_blocked_calls(
    paths: Paths,
) -> None:
    """The schema stage may want the file for itself; a silent hub must not keep it."""
    write_db_contract(paths, generation="1")
    stop, cut = StopRequest(), threading.Event()
    left: list[int] = []
    watch = StopWatcher(stop, paths.db_contract, "1", exit_process=left.append)
    watch.start()
    with stop.abort_on_stop(cut.set):
        paths.db_contract.unlink()
        assert cut.wait(10)
    assert stop.status == EXIT_DECIDE_AGAIN
    with pytest.raises(Stopped):
        stop.raise_if_requested()
    until(lambda: left == [EXIT_DECIDE_AGAIN], "the process to be left behind")


def test_the_death_of_the_parent_ends_it(paths: Paths) -> None:
    write_db_contract(paths, generation="1")
    read, write = os.pipe()
    stop = StopRequest()
    watch = StopWatcher(stop, paths.db_contract, "1", lifeline=read)
    watch.start()
    os.close(write)
    until(lambda: stop.requested, "the end")
    watch.stop()
    assert stop.status == EXIT_DONE
    os.close(read)


def test_a_watch_that_fails_goes_on(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the drainer would go on for ever with a decision that is over."""
    write_db_contract(paths, generation="1")
    stop, failed = StopRequest(), threading.Event()

    def changed(_watch: StopWatcher) -> str:
        failed.set()
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(StopWatcher, "changed", changed)
        watch = StopWatcher(stop, paths.db_contract, "1", exit_process=lambda _: None)
        watch.start()
        assert failed.wait(10)
    write_db_contract(paths, generation="2")
    until(lambda: stop.requested, "the end")
    watch.stop()
    assert stop.status == EXIT_DECIDE_AGAIN


def test_only_the_first_stop_request_counts() -> None:
    stop = StopRequest()
    stop.request(EXIT_DECIDE_AGAIN, "one")
    stop.request(EXIT_DONE, "two")
    assert (stop.status, stop.reason) == (EXIT_DECIDE_AGAIN, "one")
