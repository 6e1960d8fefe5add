# SPDX-License-Identifier: Apache-2.0
"""The spool: accepted is durable, damaged is set aside, full is counted, and nothing raises."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.alerts import counts, raise_alert, resolve_alert
from edgepaas.alerts.conditions.intake import fold_waiting
from edgepaas.alerts.spool.accept import NotSpooled
from edgepaas.alerts.spool.alert import MESSAGE_BYTES, read_alert
from edgepaas.alerts.spool.checksummed_json import (
    Damaged,
    checksummed_json,
    parse_checksummed,
    read_checksummed,
)
from edgepaas.alerts.spool.folders import SLOTS
from edgepaas.alerts.spool.quota import OVERFLOW, Quota, keep_quota, read_suppressed
from edgepaas.files.paths import Paths
from tests.support.alert_box import AlertBox, make_config


@pytest.fixture
def box(paths: Paths) -> AlertBox:
    return AlertBox(paths)


def waiting(box: AlertBox) -> list[Path]:
    return sorted(box.spool.folders.new.iterdir())


def test_an_accepted_alert_can_be_read_with_cat(box: AlertBox) -> None:
    alert = box.accept(
        "the disk is 91 % full:\nmake room",
        severity="critical",
        fingerprint="disk",
        origin="health",
    )
    (path,) = waiting(box)
    assert path.name.startswith("000000000001-critical-disk-")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[1:4] == [
        '  "what": "raised",',
        '  "severity": "critical",',
        '  "message": "the disk is 91 % full:\\nmake room",',
    ]
    assert lines[-2].startswith('  "checksum": "sha256:')
    assert set(json.loads(path.read_text())) >= {"box", "time", "clock_trusted", "at", "origin"}
    assert read_alert(read_checksummed(path)) == alert
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_names_sort_by_sequence_also_after_a_power_cut_that_set_the_number_back(
    box: AlertBox,
) -> None:
    for number in range(3):
        box.accept(str(number))
    (box.spool.folders.root / "sequence").write_text("")
    box.clock.reboot()
    box.accept("3")
    assert [read_checksummed(path)["message"] for path in waiting(box)] == ["0", "1", "2", "3"]


def test_what_is_accepted_is_synced_before_it_gets_its_name_and_its_folder_after(
    box: AlertBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.spool.folders.prepare()
    steps: list[str] = []
    sync = os.fsync

    def note_sync(descriptor: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().parent.name)
        sync(descriptor)

    rename = Path.replace
    monkeypatch.setattr(os, "fsync", note_sync)

    def note_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", note_rename)
    box.accept()
    assert steps == ["sync tmp", "rename", "sync alerts"]


class TestAFailingDisk:
    def test_after_a_failed_sync_another_file_is_written(
        self, box: AlertBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        box.spool.folders.prepare()
        fail_syncs(monkeypatch, at={0})
        box.accept("kept")
        assert [read_checksummed(path)["message"] for path in waiting(box)] == ["kept"]
        assert not list((box.spool.folders.root / "tmp").iterdir())

    @pytest.mark.parametrize("at", [{0, 1}, {1, 3}, {0, 2, 3}])
    def test_one_that_was_not_accepted_is_not_there(
        self, box: AlertBox, monkeypatch: pytest.MonkeyPatch, at: set[int]
    ) -> None:
        box.spool.folders.prepare()
        fail_syncs(monkeypatch, at=at)
        with pytest.raises(NotSpooled, match="cannot be kept"):
            box.accept()
        assert not waiting(box)

    def test_raise_alert_says_so_and_goes_on(
        self, box: AlertBox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        box.spool.folders.prepare()
        fail_syncs(monkeypatch, at=set(range(100)))
        raise_alert("it broke", severity="critical", fingerprint="x", origin="here")
        said = [record.getMessage() for record in caplog.records]
        assert said[0] == "ALERT here: it broke (fingerprint x)"
        assert "is in the log alone" in said[1]

    def test_also_without_any_place_for_it(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("EDGEPAAS_HOME", "/proc/nowhere")
        raise_alert("it broke")
        resolve_alert("it is well", fingerprint="x")
        assert "ALERT" in caplog.text
        assert "is in the log alone" in caplog.text


def fail_syncs(monkeypatch: pytest.MonkeyPatch, at: set[int]) -> None:
    """Have those of the following fsyncs fail, counted from 0."""
    sync, numbers = os.fsync, iter(range(10**6))

    def fsync(descriptor: int) -> None:
        if next(numbers) in at:
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


class TestAFullDisk:
    @pytest.fixture(autouse=True)
    def _full(self, box: AlertBox, monkeypatch: pytest.MonkeyPatch) -> None:
        """No new file can be made; what is there can be written over."""
        box.spool.folders.prepare()
        box.spool.folders.replenish()
        make = os.open

        def no_room(path: str | Path, flags: int, *more: int, **named: int) -> int:
            if flags & os.O_EXCL:
                raise OSError(errno.ENOSPC, "No space left on device")
            return make(path, flags, *more, **named)

        monkeypatch.setattr(os, "open", no_room)

    def test_it_still_takes_an_alert_and_tells_it(self, box: AlertBox) -> None:
        box.accept("the disk is full", severity="critical", fingerprint="disk")
        assert read_checksummed(waiting(box)[0])["message"] == "the disk is full"
        box.deliver()
        box.resolve("disk", "room again")
        box.deliver()
        assert box.told == [("raised", "the disk is full"), ("resolved", "room again")]

    def test_it_says_so_when_the_reserve_is_used_up(self, box: AlertBox) -> None:
        for number in range(SLOTS):
            box.accept(f"number {number}")
        with pytest.raises(NotSpooled, match="No space left"):
            box.accept("one too many")
        assert len(waiting(box)) == SLOTS

    def test_what_was_accepted_is_told_even_when_nothing_can_be_written(
        self, box: AlertBox
    ) -> None:
        for number in range(SLOTS):
            box.accept(f"number {number}")
        for _ in range(3):
            box.deliver()
        assert sum(notification.new for notification in box.taken) == SLOTS
        assert len({notification.key for notification in box.taken}) == len(box.taken)
        assert not waiting(box)

    def test_the_reserve_is_filled_up_when_there_is_room_again(
        self, box: AlertBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        box.accept()
        monkeypatch.undo()
        box.spool.folders.replenish()
        reserve = list((box.spool.folders.root / "reserve").iterdir())
        assert len(reserve) == SLOTS


@pytest.mark.parametrize(
    "damage",
    [
        "torn",
        "empty",
        "foreign name",
        "other alert's name",
        "bit flipped",
        "pipe",
        "folder",
        "link",
    ],
)
def test_what_is_damaged_or_foreign_goes_to_corrupt_and_the_rest_goes_on(
    box: AlertBox, damage: str
) -> None:
    box.accept("before")
    victim = box.spool.folders.new / box.accept("the victim").name
    box.accept("after")
    content = victim.read_bytes()
    if damage == "torn":
        victim.write_bytes(content[:-20])
    elif damage == "empty":
        victim.write_bytes(b"")
    elif damage == "foreign name":
        victim.rename(victim.with_name("notes.txt"))
    elif damage == "other alert's name":
        stem, _, _ = victim.name.rpartition("-")
        victim.rename(victim.with_name(f"{stem}-000000000000.{'0' * 16}.json"))
    elif damage == "bit flipped":
        victim.write_bytes(content.replace(b"the victim", b"the victjm"))
    else:
        victim.unlink()
        if damage == "pipe":
            os.mkfifo(victim)
        elif damage == "folder":
            victim.mkdir()
        else:
            victim.symlink_to("/etc/passwd")
    box.deliver()
    assert sorted(message for _, message in box.told) == ["after", "before"]
    assert len(list(box.spool.folders.corrupt.iterdir())) == 1
    assert not waiting(box)
    assert counts(box.paths).corrupt == 1


def test_only_the_newest_of_what_is_damaged_are_kept(box: AlertBox) -> None:
    box.spool.folders.prepare()
    for number in range(130):
        (box.spool.folders.new / f"junk-{number}").write_text("junk")
    box.deliver()
    assert len(list(box.spool.folders.corrupt.iterdir())) == 100


def test_an_alert_that_a_kill_left_after_it_was_counted_is_not_counted_again(
    box: AlertBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        box.accept(fingerprint="x")
    kept = {path: path.read_bytes() for path in waiting(box)}
    fold_waiting(box.deliverer().store, box.clock, 1000)
    for path, content in list(kept.items())[2:]:
        path.write_bytes(content)
    box.accept(fingerprint="x")
    box.deliver()
    assert [notification.count for notification in box.taken] == [6]


class TestQuota:
    def test_repeats_go_first_and_are_counted(self, box: AlertBox) -> None:
        box.accept("rare", fingerprint="rare")
        for number in range(60):
            box.accept(f"number {number}", fingerprint="often")
        assert keep_quota(box.spool, Quota(40, 10**9)) > 0
        assert len(waiting(box)) <= 40
        box.deliver()
        found = {notification.fingerprint: notification for notification in box.taken}
        assert found["rare"].count == 1
        assert found["often"].count == 60
        assert found["often"].message == "number 59"
        assert found["often"].suppressed >= 21

    def test_without_repeats_the_least_severe_and_oldest_go_and_are_told_as_a_number(
        self, box: AlertBox
    ) -> None:
        for number in range(50):
            box.accept(f"number {number}", severity="critical" if number < 20 else "warning")
        keep_quota(box.spool, Quota(30, 10**9))
        box.config = make_config(files=1000)
        for _ in range(3):
            box.deliver()
            box.clock.forward(60)
        said = [n for n in box.taken if n.condition == OVERFLOW]
        critical = [n for n in box.taken if n.severity == "critical" and n.what != "digest"]
        assert len(critical) == 20
        covered = sum(len(n.covers) for n in box.taken)
        assert said or covered
        assert sum(n.new for n in box.taken) == 50

    def test_bytes_count_as_well(self, box: AlertBox) -> None:
        for number in range(100):
            box.accept("x" * 1500 + str(number))
        keep_quota(box.spool, Quota(10_000, 100_000))
        assert sum(path.stat().st_size for path in waiting(box)) <= 100_000

    def test_a_kill_between_counting_and_deleting_counts_once(
        self, box: AlertBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(60):
            box.accept(fingerprint="often")
        monkeypatch.setattr("edgepaas.alerts.spool.quota._finish", die_once())
        with pytest.raises(KeyboardInterrupt):
            keep_quota(box.spool, Quota(40, 10**9))
        monkeypatch.undo()
        keep_quota(box.spool, Quota(40, 10**9))
        suppressed = sum(item.count for item in read_suppressed(box.spool))
        assert suppressed + len(waiting(box)) == 60

    def test_counts_that_were_read_twice_are_counted_once(self, box: AlertBox) -> None:
        for _ in range(60):
            box.accept(fingerprint="often")
        keep_quota(box.spool, Quota(40, 10**9))
        for _ in range(3):
            fold_waiting(box.deliverer().store, box.clock, 1000)
        box.deliver()
        assert [notification.count for notification in box.taken] == [60]

    def test_conditions_are_bounded_too_and_what_is_beyond_is_counted(self, box: AlertBox) -> None:
        box.config = make_config(files=10)
        for number in range(30):
            box.accept(f"number {number}")
        box.deliver()
        assert len(list(box.spool.folders.conditions.iterdir())) <= 11
        assert sum(notification.new for notification in box.taken) == 30


def die_once() -> object:
    """The first call is the first finishing of an earlier eviction, the second the kill."""
    calls = iter(range(10))

    def finish(*_: object) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt

    return finish


class TestResolving:
    def test_nothing_is_written_where_nothing_is_raised(self, paths: Paths) -> None:
        resolve_alert("fine", fingerprint="x")
        assert not (paths.alerts / "new").exists()

    def test_it_is_where_something_is(self, box: AlertBox, paths: Paths) -> None:
        raise_alert("bad", fingerprint="x")
        resolve_alert("fine", fingerprint="x")
        assert [path.name.split("-")[1] for path in waiting(box)] == ["warning", "resolved"]

    def test_nor_twice(self, box: AlertBox, paths: Paths) -> None:
        raise_alert("bad", fingerprint="x")
        resolve_alert("fine", fingerprint="x")
        box.deliver()
        resolve_alert("fine", fingerprint="x")
        assert not waiting(box)


def test_a_long_message_is_cut_and_an_unprintable_one_made_printable(box: AlertBox) -> None:
    box.accept("ä" * 5000)
    box.accept("bell\a null\0 escape\x1b[31m torn \udcff\r\nnext")
    first, second = (read_checksummed(path)["message"] for path in waiting(box))
    assert len(first.encode()) <= MESSAGE_BYTES
    assert first.endswith("…")
    assert second == "bell  null  escape [31m torn ?\nnext"


def test_no_secret_reaches_the_spool(box: AlertBox) -> None:
    box.accept("postgresql://u:hunter2secret@db/x refused, password=hunter2secret")
    assert b"hunter2secret" not in waiting(box)[0].read_bytes()


def test_a_seal_is_broken_by_any_change() -> None:
    content = checksummed_json({"a": "x", "b": 1})
    assert parse_checksummed(content) == {"a": "x", "b": 1}
    for position in range(len(content)):
        changed = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        with pytest.raises(Damaged):
            parse_checksummed(changed)
        with pytest.raises(Damaged):
            parse_checksummed(content[:position])


def test_importing_it_loads_nothing_but_logging() -> None:
    script = (
        "import sys, logging; before = set(sys.modules); import edgepaas.alerts;"
        "print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    loaded = set(found.stdout.split())
    assert {name for name in loaded if name.startswith("edgepaas")} == {
        "edgepaas",
        "edgepaas.alerts",
    }
    assert not loaded & {"json", "hashlib", "pathlib", "requests", "socket", "dataclasses"}
