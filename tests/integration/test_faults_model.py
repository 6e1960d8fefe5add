# SPDX-License-Identifier: Apache-2.0
"""A state machine: writes, kills, cuts, migrations, full disks and purges in any order.

Hypothesis looks for a sequence after which the box or the hub is not what the model says.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edgepaas.errors import DatabaseBusy, DatabaseFull
from edgepaas.outbox import fence
from edgepaas.outbox.space.retention import reclaim
from edgepaas.sync.errors import HubUnreachable
from tests.integration.test_faults_link import SOAK
from tests.support.checker import check
from tests.support.hub_database import HubDatabase
from tests.support.nodes import Node
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay
from tests.support.weaken import weakened

KEYS = st.sampled_from(["a", "b", "c"])


class Box(RuleBasedStateMachine):
    """One box and its hub; ``model`` is what the history says."""

    server: ClassVar[PostgresServer]
    template: ClassVar[str]

    @initialize()
    def begin(self) -> None:
        """A box with a hub, a folder and a wire of its own."""
        self.folder = Path(tempfile.mkdtemp(prefix="edgepaas-model-"))
        self._hub = HubDatabase.copy_of(self.server, self.template)
        self.hub = self._hub.__enter__()
        self.relay = Relay(self.server.port).__enter__()
        self.node = Node(self.folder, self.relay.reroute(self.hub.url), rows=3)
        self.numbers = dict.fromkeys(["a", "b", "c"], 0)
        self.present: set[str] = set()
        self.columns = 0
        self.reclaimed = 0
        self.cut_off = self.full = self.fenced = False

    def teardown(self) -> None:
        """Bring everything home, look, and clean up."""
        if not hasattr(self, "node"):
            return
        try:
            self.heal()
            self.free()
            self.lift()
            self.node.drain()
            found = self.hub.witness.look()
            assert check(self.node.history, found) == []
            counts = self.node.ledger()
            assert counts["accepted"] == counts["delivered"]
            assert counts["reclaimed"] == self.reclaimed
        finally:
            self.node.close()
            self.relay.__exit__()
            self._hub.__exit__(None, None, None)
            shutil.rmtree(self.folder)

    # -- what may happen --

    def _next(self, key: str, count: int = 1) -> list[int]:
        first = self.numbers[key] + 1
        self.numbers[key] += count
        return list(range(first, first + count))

    @rule(key=KEYS, count=st.integers(1, 8))
    def write_facts(self, key: str, count: int) -> None:
        """Some facts in one transaction; on a full disk or behind the fence they are refused."""
        numbers = self._next(key, count)
        self._write(lambda: self.node.facts(key, *numbers))

    @rule(key=KEYS)
    def write_shared(self, key: str) -> None:
        """A shared row gets its next number."""
        (number,) = self._next(key)
        if self._write(lambda: self.node.set(key, number)):
            self.present.add(key)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def delete_shared(self, data: st.DataObject) -> None:
        """A shared row goes."""
        key = data.draw(st.sampled_from(sorted(self.present)))
        if self._write(lambda: self.node.delete(key)):
            self.present.discard(key)

    def _write(self, work: object) -> bool:
        refused = (DatabaseFull, DatabaseBusy)
        if not (self.full or self.fenced):
            work()  # type: ignore[operator]
            return True
        before = len(self.node.history.writes())
        try:
            work()  # type: ignore[operator]
        except refused:
            for write in self.node.history.writes()[before:]:
                self.node.history.end(write, "refused")
            return False
        assert not self.fenced, "a write slipped by the fence"
        return True

    @rule()
    def send(self) -> None:
        """One batch, which arrives or does not."""
        try:
            self.node.drain_once()
        except HubUnreachable:
            self.node.hang_up()
        except sqlite3.OperationalError as error:
            assert self.full, error

    @rule()
    def kill(self) -> None:
        """Everything of the box ends, and starts again."""
        self.node.kill()
        self.full = False

    @rule()
    def cut(self) -> None:
        """The wire is out."""
        self.relay.cut()
        self.cut_off = True

    @rule()
    def cut_the_next_commit(self) -> None:
        """The next answer to COMMIT does not come."""
        self.relay.commit_cut = 1.0

    @rule()
    def heal(self) -> None:
        """The wire is whole."""
        self.relay.calm()
        self.cut_off = False

    @precondition(lambda self: self.columns < 3 and not (self.full or self.fenced))
    @rule(hub_first=st.booleans())
    def migrate(self, hub_first: bool) -> None:
        """Box and hub get a column, one before the other; what waits has the older layout."""
        self.columns += 1
        name = f"extra{self.columns}"
        hub = f"ALTER TABLE devices ADD COLUMN {name} integer"
        if hub_first:
            self.hub.execute(hub)
        self.node.add_column("devices", name)
        if not hub_first:
            self.hub.execute(hub)

    @precondition(lambda self: not self.full)
    @rule()
    def fill(self) -> None:
        """No room for another page."""
        self.node.fill()
        self.full = True

    @rule()
    def free(self) -> None:
        """There is room again."""
        self.node.free()
        self.full = False

    @precondition(lambda self: not self.full)
    @rule()
    def fence(self) -> None:
        """Writes wait."""
        fence.put(self.node.connection, 60)
        self.fenced = True

    @rule()
    def lift(self) -> None:
        """Writes pass."""
        if not self.full:
            fence.lift(self.node.connection)
            self.fenced = False

    @precondition(lambda self: not self.full)
    @rule()
    def purge(self) -> None:
        """What was delivered leaves the box."""
        self.reclaimed += reclaim(self.node.connection, older_than=-1.0).rows

    # -- what always holds --

    @invariant()
    def the_ledger_adds_up(self) -> None:
        """Each captured row is in one place."""
        if not hasattr(self, "node"):
            return
        counts = self.node.ledger()
        parts = sum(counts[name] for name in ("delivered", "dead", "shed", "pending"))
        assert counts["accepted"] == parts, counts

    @invariant()
    def the_hub_has_nothing_that_was_not_written(self) -> None:
        """And never more than what was delivered, and what is in flight."""
        if not hasattr(self, "node"):
            return
        with closing(sqlite3.connect(self.node.path)) as connection:
            assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)


@pytest.fixture
def machine(postgres: PostgresServer, _hub_template: str) -> Iterator[type[Box]]:
    """The machine with its server."""
    Box.server, Box.template = postgres, _hub_template
    yield Box


def look_for_a_sequence(machine: type[Box], *, examples: int, steps: int, shrink: bool) -> int:
    """Let Hypothesis try; returns how many sequences it ran, raises what the first bad one did."""
    ran = 0

    class Counted(machine):  # type: ignore[misc, valid-type]  # a class made by a fixture
        def teardown(self) -> None:
            nonlocal ran
            ran += 1
            super().teardown()

    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not SOAK,
            database=None,
            print_blob=True,
        ),
    )
    return ran


def test_no_sequence_of_faults_loses_doubles_or_reorders(machine: type[Box]) -> None:
    examples = 400 if SOAK else 6
    ran = look_for_a_sequence(machine, examples=examples, steps=60 if SOAK else 20, shrink=SOAK)
    assert ran >= examples


def test_the_machine_finds_a_weakened_build_out(machine: type[Box]) -> None:
    with weakened("forgetful"), pytest.raises(AssertionError):
        look_for_a_sequence(machine, examples=5, steps=15, shrink=False)
