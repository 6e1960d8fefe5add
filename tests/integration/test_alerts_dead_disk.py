# SPDX-License-Identifier: Apache-2.0
"""The spool's disk is dead: alerts go straight to the channels, under their keys."""

import pytest

from edgepaas.alerts import raise_alert, resolve_alert
from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.alerts.delivery.run import deliver_once
from edgepaas.alerts.spool.accept import Spool
from edgepaas.alerts.spool.stand_in import is_usable, stand_in
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings
from tests.support.receivers import Receiver, receiving


class DeadDisk:
    """The folder of the spool becomes a file, as one that was remounted refuses every path."""

    def __init__(self, paths: Paths) -> None:
        self._spool, self._kept = paths.spool, paths.spool.with_name("kept")

    def die(self) -> None:
        self._spool.rename(self._kept)
        self._spool.write_text("dead")

    def mend(self) -> None:
        self._spool.unlink()
        self._kept.rename(self._spool)


def said(receiver: Receiver) -> list[tuple[str, str]]:
    return [(r.document["what"], r.document["message"]) for r in receiver.requests]


def test_alerts_reach_a_person_and_are_taken_over_once_it_is_mended(paths: Paths) -> None:
    with receiving((200, {}, "ok")) as receiver:
        Settings.of(ALERT_WEBHOOK_URL=receiver.url).write(paths.env_contract)
        raise_alert("known before", fingerprint="before")
        deliver_once(paths, linger=0.0)
        disk = DeadDisk(paths)
        disk.die()
        assert not is_usable(paths)
        raise_alert("the disk is dead", severity="critical", fingerprint="disk")
        raise_alert("it came", fingerprint="other")
        deliver_once(paths, linger=0.0)
        resolve_alert("it went", fingerprint="other")
        deliver_once(paths, linger=0.0)
        raise_alert("unsent", fingerprint="late")
        disk.mend()
        deliver_once(paths, linger=0.0)
        resolve_alert("the disk works", fingerprint="disk")
        deliver_once(paths, linger=0.0)
    assert said(receiver) == [
        ("raised", "known before"),
        ("raised", "the disk is dead"),
        ("raised", "it came"),
        ("resolved", "it went"),
        ("raised", "unsent"),
        ("resolved", "the disk works"),
    ]
    assert len(set(receiver.keys)) == 6
    assert not list(stand_in(paths).alerts.glob("new/*"))
    holding = [c["fingerprint"] for c in list_conditions(paths) if c["state"] == "raised"]
    assert sorted(holding) == ["before", "late"]


def test_what_a_receiver_may_have_is_sent_again_from_there_under_its_key(paths: Paths) -> None:
    with receiving(500, (200, {}, "ok")) as receiver:
        Settings.of(ALERT_WEBHOOK_URL=receiver.url).write(paths.env_contract)
        disk = DeadDisk(paths)
        disk.die()
        raise_alert("the disk is dead", severity="critical", fingerprint="disk")
        deliver_once(paths, linger=0.0)
        disk.mend()
        deliver_once(paths, linger=30.0)
    assert len(receiver.requests) == 2
    assert len(set(receiver.keys)) == 1


def test_a_full_disk_is_no_dead_one(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    Spool(paths).folders.prepare()
    assert is_usable(paths)

    def fail(code: int) -> None:
        def pwrite(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "pwrite", pwrite)

    fail(errno.ENOSPC)
    assert is_usable(paths)
    for code in (errno.EIO, errno.EROFS, errno.ESTALE):
        fail(code)
        assert not is_usable(paths)
