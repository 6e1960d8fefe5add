# SPDX-License-Identifier: Apache-2.0
"""Reclaiming trusts a clock only where the hub confirms it."""

import sqlite3
from types import SimpleNamespace
from typing import cast

import pytest

from edgepaas.outbox.space.retention import Reclaimed
from edgepaas.sync.box_file import BoxFile
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.reclaim import Reclaimer
from edgepaas.sync.report import LiveStatus
from edgepaas.sync.turns.heartbeats import HeartbeatTurn
from edgepaas.sync.turns.reclaiming import ReclaimTurn


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
        turn = ReclaimTurn(
            Reclaimer(60.0),
            cast(HeartbeatTurn, SimpleNamespace(take=lambda *_, **__: None)),
            LiveStatus(clock_offset=offset),
            reclaimed=lambda: None,
        )
        file = SimpleNamespace(connection=sqlite3.connect(":memory:"))
        turn.take(cast(BoxFile, file), cast(Hub, None))
        file.connection.close()
        assert reclaimed == expected
