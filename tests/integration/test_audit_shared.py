# SPDX-License-Identifier: Apache-2.0
"""The audit of shared rows: what a box changed past capture is found, and nothing is by mistake."""

import itertools
import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from edgepaas.outbox import capture, tables
from edgepaas.outbox.resending.agreed_rows import agreement, forget_all
from edgepaas.outbox.space import retention
from edgepaas.schema.table_contract import describe
from edgepaas.sync.audit import shared_rows
from edgepaas.sync.audit.comparison import Comparison, compare_content
from edgepaas.sync.audit.record import still_open
from edgepaas.sync.audit.shared_rows import Look, verdict
from edgepaas.sync.losses.acknowledge import acknowledge_rows, read_acknowledged
from edgepaas.sync.mirror.mirror import Mirror, PassResult
from edgepaas.telemetry.models import Model
from tests.integration.test_audit_hub import Both
from tests.integration.test_audit_scheduled import Audited, audited
from tests.support.forwarding import TestBox, TestHub, document, rows_of
from tests.support.weaken import weakened

#: Far longer than anything here takes.
LIMIT = 90.0

__all__ = ["audited"]

MODELS = {"revision": ["1"], "tables": describe(Model.metadata)}
RULES = 12
NOW = "2026-01-01T00:00:00.000000Z"


@pytest.fixture
def both(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> Both:
    """A box with rules that both sides have, after a pass of the mirror."""
    monkeypatch.setattr(shared_rows, "CHUNK", 5)
    found = audited.both
    for number in range(RULES):
        add_rule(found, number)
    found.drain()
    mirror(found)
    return found


def identity(number: int) -> str:
    return str(uuid.UUID(int=number))


def add_rule(both: Both, number: int) -> None:
    both.connection.execute(
        "INSERT INTO rules (id, name, metric, condition, threshold, for_seconds, severity, "
        "enabled, created_at, updated_at) VALUES (?, ?, 'm', 'above', ?, 0, 'info', 1, ?, ?)",
        (identity(number), f"rule {number}", float(number), NOW, NOW),
    )


def mirror(both: Both) -> PassResult:
    """A pass, as a drainer that has just started makes it."""
    acknowledged = lambda: read_acknowledged(both.paths)  # noqa: E731
    return Mirror(MODELS, acknowledged=acknowledged).run(both.connection, both.hub)


def past_capture(both: Both, statement: str) -> None:
    """Change the box's file while nothing captures: the triggers are gone, for a moment."""
    with tables.transaction(both.connection), capture.paused(both.connection):
        both.connection.execute(statement)


def found_by(both: Both, *options: str) -> dict[str, Any]:
    """What the command says of shared rows."""
    status = both.audit("--json", *options)
    found: dict[str, Any] = json.loads(both.said)
    assert status == (0 if found["adds_up"] else 1), both.said
    shared: dict[str, Any] = found["compared_shared"]
    shared["adds_up"] = found["adds_up"]
    return shared


def thresholds(both: Both) -> dict[str, float]:
    return {row[0]: row[1] for row in both.hub.query("SELECT name, threshold FROM rules")}


#: What is done to the box past capture, the verdict, and how many rows it is said of.
PAST_CAPTURE = (
    ("UPDATE rules SET threshold = threshold + 1e-9 WHERE threshold < 3", "altered", 3),
    ("UPDATE rules SET enabled = 0 WHERE threshold = 4", "altered", 1),
    ("UPDATE rules SET updated_at = '2026-01-01T00:00:00.000001Z'", "altered", RULES),
    ("DELETE FROM rules WHERE threshold > 6", "undeleted", RULES - 7),
    (
        "INSERT INTO rules SELECT '00000000-0000-0000-0000-0000000000ff', 'never captured', "
        "device, metric, condition, threshold, for_seconds, severity, enabled, created_at, "
        "updated_at FROM rules WHERE threshold = 1",
        "unsent",
        1,
    ),
)


@pytest.mark.parametrize(("harm", "name", "rows"), PAST_CAPTURE)
def test_what_the_box_changed_past_capture_is_found_and_the_mirror_leaves_it(
    audited: Audited, both: Both, harm: str, name: str, rows: int
) -> None:
    """By the command and by the audit that runs by itself; it is the only copy."""
    assert found_by(both)["same"] == RULES
    past_capture(both, harm)
    assert mirror(both).uncaptured == rows
    before = both.connection.execute("SELECT * FROM rules ORDER BY id").fetchall()
    found = found_by(both)
    assert (found[name], found["not_in_place"], found["adds_up"]) == (rows, rows, False)
    record = audited.tomorrow()
    assert both.connection.execute("SELECT * FROM rules ORDER BY id").fetchall() == before
    if name == "unsent":
        assert (record.counts["shared_queued_again"], record.open) == (1, [])
        assert audited.told[-1][0] == "warning"
        both.drain()
        assert "never captured" in thresholds(both)
    else:
        assert (record.counts[f"shared_{name}"], len(record.open)) == (rows, rows)
        assert audited.told[-1][0] == "critical"
        assert still_open(both.paths)
        assert len(thresholds(both)) == RULES, "nothing is overwritten"
        acknowledge_rows(both.paths, {"rules": [one["key"] for one in record.open]})
        assert mirror(both).uncaptured == 0, "an operator said that the hub's word counts"
    mirror(both)
    assert found_by(both)["adds_up"]
    assert audited.tomorrow().open == []
    assert audited.told[-1] == ("", "resolved")


#: What is done to PostgreSQL by somebody who leaves no mark, and what can be said of it.
THERE = (
    ("UPDATE rules SET threshold = 100 WHERE threshold < 3", "changed_there", 3),
    ("DELETE FROM rules WHERE threshold < 2", "deleted_there", 2),
)


@pytest.mark.parametrize(("harm", "name", "rows"), THERE)
def test_what_somebody_changed_in_postgresql_is_counted_and_is_the_mirrors(
    audited: Audited, both: Both, harm: str, name: str, rows: int
) -> None:
    """Who did so cannot be said: other boxes may. It is no discrepancy; the hub's word counts."""
    both.hub.query(harm)
    found = found_by(both)
    assert (found[name], found["same"], found["adds_up"]) == (rows, RULES - rows, True)
    assert audited.tomorrow().counts[f"shared_{name}"] == rows
    assert mirror(both).uncaptured == 0
    found = found_by(both)
    assert found["same"] == found["checked"] == len(thresholds(both))


def test_what_both_sides_changed_is_not_decided(both: Both) -> None:
    past_capture(both, "UPDATE rules SET threshold = -1 WHERE threshold = 1")
    both.hub.query("UPDATE rules SET threshold = -2 WHERE threshold = 1")
    assert found_by(both)["undecided"] == 1
    mirror(both)
    assert found_by(both)["same"] == RULES


def test_a_row_that_waits_or_was_just_sent_is_no_discrepancy(both: Both) -> None:
    """Also where PostgreSQL has, by somebody's doing, the very value that it had before."""
    both.connection.execute("UPDATE rules SET threshold = 50 WHERE threshold = 5")
    both.connection.execute("DELETE FROM rules WHERE threshold = 6")
    add_rule(both, 77)
    assert found_by(both)["waiting"] == 3
    both.drain()
    assert found_by(both)["same"] == RULES
    both.hub.query("UPDATE rules SET threshold = 5 WHERE threshold = 50")
    both.hub.query(f"DELETE FROM rules WHERE id = '{identity(77)}'")
    found = found_by(both)
    assert (found["waiting"], found["adds_up"]) == (2, True)
    assert (mirror(both).uncaptured, found_by(both)["same"]) == (0, RULES - 1)


def test_nothing_is_claimed_before_the_mirror_has_compared(both: Both) -> None:
    with tables.transaction(both.connection):
        forget_all(both.connection)
    past_capture(both, "UPDATE rules SET threshold = -1 WHERE threshold = 1")
    found = found_by(both)
    assert (found["undecided"], found["unjudged"], found["adds_up"]) == (1, ["rules"], True)
    both.audit()
    assert "of rules the mirror has compared nothing yet" in both.said


def test_an_agreement_ends_with_what_it_rests_on(both: Both) -> None:
    """Rows that left the outbox, another stream, a mark that another release's mirror moved."""
    (layout,) = [one for one in shared_layouts(both) if one.table == "rules"]
    both.hub.query("UPDATE rules SET threshold = 100 WHERE threshold = 1")
    mirror(both)  # which moves the mark of the history
    shape = both.connection.execute(
        "SELECT shape FROM outbox_agreements WHERE tbl = 'rules'"
    ).fetchone()[0]
    assert agreement(both.connection, layout, shape)
    assert not agreement(both.connection, layout, "another shape")
    for table, change in (
        ("outbox_state", "reclaimed_seq = confirmed_seq + 1"),
        ("outbox_state", "stream_id = 'another'"),
        ("outbox_recovery", "history_mark = history_mark + 1"),
    ):
        both.connection.execute("BEGIN")
        both.connection.execute(f"UPDATE {table} SET {change}")
        assert not agreement(both.connection, layout, shape), change
        both.connection.execute("ROLLBACK")
    assert agreement(both.connection, layout, shape)


def shared_layouts(both: Both) -> list[Any]:
    from edgepaas.sync.audit.own_rows import newest_layouts

    return newest_layouts(both.connection, "shared")


def test_an_agreement_is_renewed_where_facts_alone_are_sent(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepaas.sync.mirror import agreement as module

    monkeypatch.setattr(module, "RENEWED_EVERY", 20)
    kept = Mirror(MODELS)
    kept.run(both.connection, both.hub)
    for turn in range(3):
        both.write(25, first=25 * turn)
        both.drain()
        kept.run(both.connection, both.hub)
        retention.reclaim(both.connection, older_than=0)
        assert found_by(both)["unjudged"] == []
        past_capture(both, "UPDATE rules SET threshold = threshold + 100 WHERE threshold = 1")
        assert found_by(both)["altered"] == 1
        past_capture(both, "UPDATE rules SET threshold = threshold - 100 WHERE threshold = 101")


def test_digests_leave_with_their_rows(both: Both) -> None:
    """Deleted here, there, and with a table: nothing of them is kept."""
    count = "SELECT count(*) FROM outbox_agreed_rules"
    assert both.connection.execute(count).fetchone() == (RULES,)
    both.connection.execute("DELETE FROM rules WHERE threshold < 4")
    both.hub.query("DELETE FROM rules WHERE threshold = 7")
    both.drain()
    mirror(both)
    assert both.connection.execute(count).fetchone() == (RULES - 5,)
    without = {**MODELS, "tables": {k: v for k, v in MODELS["tables"].items() if k != "rules"}}  # type: ignore[attr-defined]
    Mirror(without).run(both.connection, both.hub)
    names = both.connection.execute(
        "SELECT name FROM sqlite_schema WHERE name = 'outbox_agreed_rules'"
    ).fetchall()
    assert names == []


def compared(box: TestBox, link: Any) -> Comparison:
    return compare_content(box.file, link, document()["tables"], {}, most=None)


def test_counters_are_compared_and_their_increments_add_up(
    box: TestBox, other: TestBox, hub: TestHub, link: Any
) -> None:
    """Two boxes count; an increment past capture is found, and none by mistake."""
    one = box.place("door", visits=1)
    box.drain(link)
    mirrors = {each: Mirror(document()) for each in (box, other)}
    for each in (box, other):
        mirrors[each].run(each.file, link)
    for each, by in ((box, 5), (other, 7)):
        each.write(f"UPDATE places SET visits = visits + {by} WHERE id = '{one}'")
    for each in (box, other):
        assert compared(each, link).shared.discrepancies() == []
        each.drain(link)
        assert compared(each, link).shared.discrepancies() == []
    for each in (box, other):
        mirrors[each].run(each.file, link)
        assert compared(each, link).shared.same == 1
        assert rows_of(each.file, "SELECT visits FROM places") == [(13,)]
    with tables.transaction(box.file), capture.paused(box.file):
        box.file.execute("UPDATE places SET visits = visits + 1")
    assert mirrors[box].run(box.file, link).uncaptured == 0, "nothing changed: it did not look"
    found = compared(box, link).shared
    assert (found.altered, found.examples) == (1, [f"places {one}"])
    assert compared(other, link).shared.discrepancies() == []
    assert hub.one("SELECT visits FROM places") == 13


def test_two_boxes_that_write_while_it_compares_are_no_discrepancy(
    box: TestBox, other: TestBox, hub: TestHub, link: Any
) -> None:
    """Each changes, makes and deletes the same few rows, toggling values back and forth."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def works(path: Path, node: str, start: int) -> None:
        mine = TestBox(path, node=node)
        try:
            with hub.link() as own:
                passes = Mirror(document())
                for number in itertools.count(start):
                    if stop.is_set():
                        return
                    name = f"p{number % 7}"
                    mine.write(
                        "INSERT INTO places (id, name, note, visits) VALUES (?, ?, 'a', 0) "
                        "ON CONFLICT DO UPDATE SET note = CASE note WHEN 'a' THEN 'b' "
                        "ELSE 'a' END, visits = coalesce(visits, 0) + 1",
                        (str(uuid.uuid5(uuid.NAMESPACE_URL, name)), name),
                    )
                    if number % 5 == 0:
                        mine.write(f"DELETE FROM places WHERE name = 'p{number % 3}'")
                    if number % 3 == 0:
                        mine.drain_all(own)
                    if number % 4 == 0:
                        assert passes.run(mine.file, own).uncaptured == 0
        except BaseException as error:
            failures.append(error)
        finally:
            mine.close()

    threads = [
        threading.Thread(target=works, args=(each.path, each.node, start))
        for start, each in enumerate((box, other))
    ]
    for thread in threads:
        thread.start()
    try:
        looked, until = 0, time.monotonic() + LIMIT
        while looked <= 60 and time.monotonic() < until:
            for each in (box, other):
                found = compared(each, link).shared
                assert found.discrepancies() == []
                looked += found.checked
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert looked > 60
    for each in (box, other, box):
        each.drain_all(link)
        Mirror(document()).run(each.file, link)
    for each in (box, other):
        found = compared(each, link).shared
        assert (found.discrepancies(), found.same) == ([], found.checked)


def test_what_a_box_copied_from_its_journal_is_not_taken_for_uncaptured(both: Both) -> None:
    """PostgreSQL served: the file is changed by what the journal has, and the hub moved on."""
    from edgepaas.outbox.resending.agreed_rows import make_unknown

    (layout,) = [one for one in shared_layouts(both) if one.table == "rules"]
    past_capture(both, "UPDATE rules SET threshold = -1 WHERE threshold = 1")
    make_unknown(both.connection, layout, (identity(1),))
    assert found_by(both)["undecided"] == 1
    assert mirror(both).uncaptured == 0
    assert found_by(both)["same"] == RULES


LOOK = Look(("k",), (), 7, agreed=True, captured=False)


@pytest.mark.parametrize(
    ("look", "own", "there", "deleted", "expected"),
    [
        (LOOK, 7, 7, False, "same"),
        (LOOK, 8, 8, False, "same"),
        (LOOK, 8, 7, False, "altered"),
        (LOOK, 7, 8, False, "changed_there"),
        (LOOK, 8, 9, False, "undecided"),
        (LOOK, None, 7, False, "undeleted"),
        (LOOK, None, 8, False, "undecided"),
        (LOOK, None, None, False, "same"),
        (LOOK, 7, None, False, "deleted_there"),
        (LOOK, 8, None, False, "undecided"),
        (LOOK, 8, None, True, "deleted_there"),
        (LOOK._replace(known=None), 8, 9, False, "undecided"),
        (LOOK._replace(known=None), None, 9, False, "undecided"),
        (LOOK._replace(known=None), 8, None, False, "undecided"),
        (LOOK._replace(known=None, agreed=False), 8, None, False, "unsent"),
        (LOOK._replace(known=None, agreed=False), 8, None, True, "deleted_there"),
        (LOOK._replace(known=None, agreed=False), 8, 9, False, "undecided"),
        (LOOK._replace(captured=True), 8, 7, False, "waiting"),
        (LOOK._replace(captured=True), 8, None, False, "waiting"),
    ],
)
def test_a_verdict_needs_what_both_sides_had(
    look: Look, own: int | None, there: int | None, deleted: bool, expected: str
) -> None:
    assert verdict(look, own, there, deleted=deleted) == expected


def test_a_build_whose_mirror_overwrites_what_nobody_captured_is_found_out(both: Both) -> None:
    past_capture(both, "UPDATE rules SET threshold = -1 WHERE threshold = 1")
    with weakened("mirror-any-difference"):
        mirror(both)
        assert found_by(both)["adds_up"], "it says that it adds up, and the change is gone"
    assert both.connection.execute("SELECT 1 FROM rules WHERE threshold = -1").fetchall() == []
    past_capture(both, "UPDATE rules SET threshold = -1 WHERE threshold = 1")
    mirror(both)
    assert not found_by(both)["adds_up"]


def test_a_build_that_takes_any_difference_for_the_mirrors_is_found_out(both: Both) -> None:
    past_capture(both, "UPDATE rules SET threshold = -1 WHERE threshold = 1")
    with weakened("audit-shared-unjudged"):
        assert found_by(both)["adds_up"]
    assert not found_by(both)["adds_up"]
