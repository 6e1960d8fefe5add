# SPDX-License-Identifier: Apache-2.0
"""What wakes a drainer, what ends it, how long it waits, and what it says of itself."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.sync_wakeup import Waker
from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE
from edgepaas.files.paths import Paths
from edgepaas.outbox.space.retention import Reclaimed
from edgepaas.sync import status as sync_status
from edgepaas.sync.box_file import BoxFile
from edgepaas.sync.errors import HubMisconfigured, HubUnreachable, SchemaDrift, UnclassifiedHubError
from edgepaas.sync.failures import AWAY_ALERT_AFTER, FailureTracker, classify
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.hub.schema_upgrade import HubSchemaUpgrade, SchemaBlocked
from edgepaas.sync.reclaim import Reclaimer
from edgepaas.sync.report import LiveStatus, StatusPublisher
from edgepaas.sync.shutdown import Stopped, StopRequest, StopWatcher
from edgepaas.sync.wakeups import ForeignWriteDetector, WakeupSocket, send_wakeup
from edgepaas.sync.worker import SyncWorker
from edgepaas.timing.backoff import Backoff
from tests.support.service_process import until, write_db_contract

LONG = 60.0


@pytest.fixture
def wake(tmp_path: Path) -> Iterator[WakeupSocket]:
    """A drainer's ear."""
    found = WakeupSocket(tmp_path / "sync.wake")
    yield found
    found.close()


def test_the_services_writer_wakes_it(wake: WakeupSocket, tmp_path: Path) -> None:
    waker = Waker(tmp_path / "sync.wake")
    waker()
    assert wake.sleep(LONG)
    waker.close()


def test_many_words_are_one_reason_to_get_up(wake: WakeupSocket, tmp_path: Path) -> None:
    for _ in range(1000):
        assert send_wakeup(tmp_path / "sync.wake")
    assert wake.sleep(LONG)
    assert not wake.sleep(0)


def test_a_folder_far_down_has_an_ear_as_well(tmp_path: Path) -> None:
    """sun_path holds 108 bytes, a home folder's name may be longer."""
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    deep = WakeupSocket(folder / "sync.wake")
    Waker(folder / "sync.wake")()
    assert deep.sleep(LONG)
    deep.close()


def test_the_ear_of_one_that_was_killed_is_taken_over_and_nobody_else_may_speak(
    wake: WakeupSocket, tmp_path: Path
) -> None:
    again = WakeupSocket(tmp_path / "sync.wake")
    assert (tmp_path / "sync.wake").stat().st_mode & 0o077 == 0
    send_wakeup(tmp_path / "sync.wake")
    assert again.sleep(LONG)
    again.close()


def test_where_nobody_listens_nothing_is_said(tmp_path: Path) -> None:
    assert not send_wakeup(tmp_path / "sync.wake")


def test_a_deaf_one_sleeps_on_and_is_woken_by_its_end(wake: WakeupSocket, tmp_path: Path) -> None:
    """While the hub is away rows are no reason to get up."""
    send_wakeup(tmp_path / "sync.wake")
    assert not wake.sleep(0.01, ignore_wakeups=True)
    wake.interrupt()
    assert not wake.sleep(LONG, ignore_wakeups=True)


def test_a_commit_of_somebody_else_is_seen_and_its_own_is_not(tmp_path: Path) -> None:
    mine = open_sqlite(tmp_path / "a.db", create=True)
    mine.execute("CREATE TABLE t (a)")
    foreign = ForeignWriteDetector(mine)
    assert not foreign.changed()
    mine.execute("INSERT INTO t VALUES (1)")
    assert not foreign.changed()
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute("INSERT INTO t VALUES (2)")
    assert foreign.changed()
    assert not foreign.changed()
    other.close()
    mine.close()


class Clock:
    """A clock that goes when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_success() -> None:
    clock = Clock()
    backoff = Backoff(first=1, longest=5, clock=clock, jitter=lambda: 1.0)
    assert backoff.remaining == 0
    assert [backoff.failed() for _ in range(5)] == [1, 2, 4, 5, 5]
    clock.now += 4
    assert backoff.remaining == 1
    backoff.succeeded()
    assert (backoff.remaining, backoff.failed()) == (0, 1)


def test_two_boxes_do_not_come_back_at_the_same_moment() -> None:
    pauses = {Backoff(first=5).failed() for _ in range(20)}
    assert len(pauses) > 10
    assert all(2.5 <= pause <= 5 for pause in pauses)


def test_a_week_of_failures_overflows_nothing() -> None:
    backoff = Backoff(jitter=lambda: 1.0)
    assert [backoff.failed() for _ in range(5000)][-1] == 5.0


def test_a_new_decision_ends_it_with_75(paths: Paths) -> None:
    write_db_contract(paths, generation="1")
    watch = StopWatcher(StopRequest(), paths.db_contract, "1")
    assert watch.changed() == ""
    write_db_contract(paths, generation="2")
    assert "a new decision was made" in watch.changed()


def test_a_decision_that_is_withdrawn_ends_it_at_once_and_cuts_what_it_is_blocked_in(
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


def test_the_first_who_asks_for_the_end_decides_how() -> None:
    stop = StopRequest()
    stop.request(EXIT_DECIDE_AGAIN, "one")
    stop.request(EXIT_DONE, "two")
    assert (stop.status, stop.reason) == (EXIT_DECIDE_AGAIN, "one")


@pytest.mark.parametrize(
    ("error", "state", "hub", "alert"),
    [
        (HubUnreachable("x"), "held", "away", False),
        (HubMisconfigured("x"), "blocked", "misconfigured", True),
        (UnclassifiedHubError("x"), "blocked", "misconfigured", True),
        (SchemaDrift("x"), "held", "schema", False),
        (SchemaBlocked("x"), "blocked", "schema", True),
        (sqlite3.OperationalError("database is locked"), "held", None, False),
    ],
)
def test_each_kind_of_trouble_is_judged(
    error: Exception, state: str, hub: str | None, alert: bool
) -> None:
    found = classify(error, drifts=0)
    assert (found.state, found.hub, bool(found.alert)) == (state, hub, alert)


def test_a_schema_that_does_not_fit_after_it_was_mended_needs_a_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda _, fingerprint, **__: raised.append(fingerprint),
    )
    trouble = FailureTracker(LiveStatus())
    assert trouble.record_failure(SchemaDrift("no such column")).state == "held"
    for _ in range(3):
        assert trouble.record_failure(SchemaDrift("no such column")).state == "blocked"
    assert raised == ["hub-schema"]
    trouble.record_success()
    assert trouble.remaining == 0
    assert trouble.report.hub == "ok"
    assert trouble.record_failure(SchemaDrift("no such column")).state == "held"


def test_a_postgresql_that_stays_away_is_told_of_where_nobody_else_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where SQLite serves by choice nothing falls back: a changed password looks like this."""
    raised: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda _, fingerprint, **__: raised.append(fingerprint),
    )
    now = 0.0
    report = LiveStatus()
    report.set_waiting(3, 0.0)
    trouble = FailureTracker(report, alerts_when_away=True, clock=lambda: now)
    other = FailureTracker(report, clock=lambda: now)
    for now in (0.0, AWAY_ALERT_AFTER - 1, AWAY_ALERT_AFTER, AWAY_ALERT_AFTER + 1):
        trouble.record_failure(HubUnreachable("refuses the login"))
        other.record_failure(HubUnreachable("refuses the login"))
        assert raised == (["hub-away"] if now >= AWAY_ALERT_AFTER else [])
    trouble.record_success()
    trouble.record_failure(HubUnreachable("refuses the login"))
    assert raised == ["hub-away"], "its time begins anew"


def test_a_clock_that_the_hub_does_not_confirm_makes_nothing_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten years on, everything was delivered long ago: the box would forget all of it."""
    reclaimed: list[float] = []

    def reclaim(_: object, *, older_than: float, limit: int) -> Reclaimed:
        reclaimed.append(older_than)
        return Reclaimed()

    monkeypatch.setattr("edgepaas.sync.reclaim.reclaim", reclaim)
    for offset, expected in ((-315_360_000.0, []), (0.2, [60.0])):
        worker = SimpleNamespace(
            report=LiveStatus(clock_offset=offset),
            _reclaimer=Reclaimer(60.0),
            _send_heartbeat=lambda *_, **__: None,
            connection=None,
        )
        SyncWorker._reclaim(cast(SyncWorker, worker), cast(BoxFile, worker), cast(Hub, worker))
        assert reclaimed == expected


def test_a_schema_stage_that_fails_blocks_with_its_last_word(tmp_path: Path) -> None:
    script = tmp_path / "schema"
    script.write_text("#!/bin/sh\necho first\necho 'edgepaas: it does not fit' >&2\nexit 1\n")
    script.chmod(0o755)
    schema = HubSchemaUpgrade([str(script)], {}, StopRequest(), at_head=False)
    with pytest.raises(SchemaBlocked, match="it does not fit"):
        schema.run()
    assert not schema.at_head


def test_a_schema_stage_that_takes_long_does_not_outlive_the_end(tmp_path: Path) -> None:
    script = tmp_path / "schema"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    script.chmod(0o755)
    stop = StopRequest()
    schema = HubSchemaUpgrade([str(script)], {"PATH": "/usr/bin:/bin"}, stop, at_head=False)
    pid_file = tmp_path / "pid"

    def end() -> None:
        until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the child")
        stop.request(EXIT_DECIDE_AGAIN, "a new decision")

    threading.Thread(target=end).start()
    with pytest.raises(Stopped):
        schema.run()
    pid = int(pid_file.read_text())

    def ended() -> bool:
        try:
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            return True  # its Popen has gone, and taken its status in

    until(ended, "the end of the child")


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
