# SPDX-License-Identifier: Apache-2.0
"""The drainer's turn at handing back: rehearse, let the next service connect, then the steps."""

import sqlite3
from typing import Any, cast

import pytest

from edgepaas.sync.takeover.rehearsal import VALID, RehearsalFailed, Rehearsed
from edgepaas.sync.takeover.turn import TakeoverTurn

#: What the next service takes to connect, in seconds.
CONNECTING = 4.2
FILE: sqlite3.Connection = cast("Any", None)


class Rehearsals:
    """Gives what it was told to, once."""

    def __init__(self) -> None:
        self.running = False
        self.begun = 0
        self.found: Rehearsed | RehearsalFailed | None = None

    def begin(self) -> None:
        """Begin one."""
        self.begun += 1

    def take(self) -> Rehearsed | None:
        """Return what was found, or raise it."""
        found, self.found = self.found, None
        if isinstance(found, RehearsalFailed):
            raise found
        return found


class Handback:
    """Notes what is asked of it."""

    connecting_time = CONNECTING

    def __init__(self) -> None:
        self.done: list[str] = []

    def announce(self, _revisions: object) -> None:
        """Say that PostgreSQL is good."""
        self.done.append("announced")

    def refuse(self, reason: str) -> None:
        """Back off."""
        self.done.append(f"refused: {reason}")

    def attempt(self, *_: object, **__: object) -> None:
        """Do the steps."""
        self.done.append("attempted")


class Turns:
    """A turn with all that it uses."""

    def __init__(self) -> None:
        self.now = 100.0
        self.rehearsals, self.handback = Rehearsals(), Handback()
        self.turn = TakeoverTurn(
            cast("Any", self.handback),
            cast("Any", self.rehearsals),
            cast("Any", None),
            cast("Any", None),
            cast("Any", None),
            clock=lambda: self.now,
        )

    def take(self, after: float = 0.0) -> list[str]:
        """Take it *after* so many seconds; returns all that was done so far."""
        self.now += after
        self.turn.take(FILE, cast("Any", self))
        return self.handback.done

    def abort(self) -> None:
        """Abort the hub."""


@pytest.fixture
def turns() -> Turns:
    """At its beginning."""
    return Turns()


def test_writes_are_taken_until_the_next_service_has_connected(turns: Turns) -> None:
    """A login over a slow link would be a part of the time without a write."""
    assert turns.take() == []
    assert turns.rehearsals.begun == 1
    turns.rehearsals.found = Rehearsed(("0002",), 3.0)
    assert turns.take() == ["announced"]
    assert turns.turn.seconds_left() == pytest.approx(CONNECTING)
    assert turns.take(CONNECTING - 0.1) == ["announced"]
    assert turns.take(0.2) == ["announced", "attempted"]
    assert turns.rehearsals.begun == 1


def test_what_was_found_long_ago_is_rehearsed_anew(turns: Turns) -> None:
    turns.rehearsals.found = Rehearsed(("0002",), 3.0)
    turns.take()
    assert turns.take(CONNECTING + VALID + 0.1) == ["announced"]
    assert turns.rehearsals.begun == 1


def test_after_a_failure_of_postgres_it_is_rehearsed_anew(turns: Turns) -> None:
    turns.rehearsals.found = Rehearsed(("0002",), 3.0)
    turns.take()
    turns.turn.forget()
    assert turns.take(CONNECTING) == ["announced"]
    assert turns.rehearsals.begun == 1


def test_a_rehearsal_that_fails_backs_off(turns: Turns) -> None:
    turns.rehearsals.found = RehearsalFailed("it takes no writes")
    assert turns.take() == ["refused: it takes no writes"]
    assert turns.turn.seconds_left() == float("inf")
    turns.rehearsals.running = True
    assert turns.turn.seconds_left() < 1
