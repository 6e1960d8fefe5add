# SPDX-License-Identifier: Apache-2.0
"""Reclaiming trusts a clock only where the hub confirms it."""

from types import SimpleNamespace
from typing import cast

import pytest

from edgepaas.outbox.space.retention import Reclaimed
from edgepaas.sync.box_file import BoxFile
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.reclaim import Reclaimer
from edgepaas.sync.report import LiveStatus
from edgepaas.sync.worker import SyncWorker


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
