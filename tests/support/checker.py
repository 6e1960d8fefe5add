# SPDX-License-Identifier: Apache-2.0
"""Compares what PostgreSQL holds in the end with what the clients were told.

    witness = Witness(execute)      # triggers on the hub that keep the order of arrival
    …                               # writes, faults, and a queue that reaches zero
    assert check(history, witness.look()) == []

A complaint says which promise was broken: ``lost`` (acknowledged but absent), ``foreign``
(present but never sent, or refused), ``doubled``, ``reordered`` (per key), ``stale`` (a
shared row's final value), ``undead`` (deleted and there), ``invented`` (a conflict or a
dead letter where there can be none), ``torn`` (one source transaction in several of the
hub's), ``forked`` (more streams than there were boxes, clones and restored files).
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.support.history import History, Write


@dataclass(frozen=True)
class Complaint:
    """One broken promise."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Fact:
    """A fact as the hub holds it."""

    id: str
    key: str
    number: int


@dataclass(frozen=True)
class Arrival:
    """Something that was applied on the hub; of one *transaction* nobody sees the order."""

    transaction: int
    kind: str
    key: str
    number: int | None


@dataclass
class Found:
    """What the hub holds in the end."""

    facts: list[Fact] = field(default_factory=list)
    shared: dict[str, int | None] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    conflicts: int = 0
    dead_letters: int = 0
    streams: int = 0


def check(
    history: History,
    found: Found,
    *,
    conflicts: int | None = 0,
    dead_letters: int = 0,
    streams: int | None = 1,
) -> list[Complaint]:
    """Return every broken promise; the numbers are how many of each are right.

    ``conflicts=None``: any number, since several write one row; ``streams=None`` likewise.
    """
    writes = history.writes()
    complaints = [
        *_facts(writes, found),
        *_shared(writes, found),
        *_order(writes, found),
        *_wholeness(writes, found),
    ]
    if streams is not None and found.streams > streams:
        complaints.append(Complaint("forked", f"{found.streams} streams, not {streams}"))
    if conflicts is not None and found.conflicts != conflicts:
        complaints.append(Complaint("invented", f"{found.conflicts} conflicts, not {conflicts}"))
    if found.dead_letters != dead_letters:
        complaints.append(
            Complaint("invented", f"{found.dead_letters} dead letters, not {dead_letters}")
        )
    return complaints


def summary(history: History, found: Found) -> str:
    """Return one line of figures for a test's output."""
    return (
        f"{history.count('acknowledged')} acknowledged, {history.count('unknown')} unknown, "
        f"{history.count('refused')} refused; {len(found.facts)} facts on the hub, "
        f"{len({a.transaction for a in found.arrivals})} transactions that brought them"
    )


def _facts(writes: Sequence[Write], found: Found) -> Iterable[Complaint]:
    sent = {(w.key, w.number): w for w in writes if w.kind == "fact"}
    there = Counter((fact.key, fact.number) for fact in found.facts)
    for name, write in sent.items():
        if write.outcome == "acknowledged" and not there[name]:
            yield Complaint("lost", f"{name} was acknowledged")
        if write.outcome == "refused" and there[name]:
            yield Complaint("foreign", f"{name} was refused")
    for fact in found.facts:
        sender = sent.get((fact.key, fact.number))
        if sender is None:
            yield Complaint("foreign", f"{fact} was never sent")
        elif sender.id and sender.id != fact.id:
            yield Complaint("foreign", f"{fact} was sent as {sender.id}")
    for name, count in there.items():
        if count > 1:
            yield Complaint("doubled", f"{name} is there {count} times")


def _shared(writes: Sequence[Write], found: Found) -> Iterable[Complaint]:
    """Hold each shared row's final value against what it may be.

    A client writes one after another within a key, so the last acknowledged write stands,
    or one after it whose outcome is unknown.
    """
    by_key: dict[str, list[Write]] = defaultdict(list)
    for write in writes:
        if write.kind in ("set", "delete"):
            by_key[write.key].append(write)
    for key, of_key in by_key.items():
        possible: list[int | None] = [None]
        for write in of_key:
            value = None if write.kind == "delete" else write.number
            if write.outcome == "acknowledged":
                possible = [value]
            elif write.outcome == "unknown":
                possible.append(value)
        actual = found.shared.get(key)
        if actual in possible:
            continue
        if possible == [None]:
            yield Complaint("undead", f"{key} was deleted and is {actual}")
        elif actual is None:
            yield Complaint("lost", f"{key} is not there; it was set to {possible}")
        else:
            yield Complaint("stale", f"{key} is {actual} and not one of {possible}")
    for key in found.shared.keys() - by_key.keys():
        yield Complaint("foreign", f"shared row {key} was never sent")


def _order(writes: Sequence[Write], found: Found) -> Iterable[Complaint]:
    """Each key's numbers arrive in their order, and each once."""
    certain = {(w.kind, w.key, w.number) for w in writes if w.outcome == "acknowledged"}
    arrived: Counter[tuple[str, str, int | None]] = Counter()
    highest: dict[tuple[str, str], int] = {}
    for _, group in itertools.groupby(found.arrivals, key=lambda arrival: arrival.transaction):
        together = list(group)
        for one in together:
            name = (one.kind, one.key, one.number)
            arrived[name] += 1
            if arrived[name] == 2:
                yield Complaint("doubled", f"{name} was applied more than once")
            if one.number is None or name not in certain or arrived[name] > 1:
                continue
            before = highest.get((one.kind, one.key), -1)
            if one.number < before:
                yield Complaint("reordered", f"{name} arrived after {before}")
        for one in together:
            if one.number is not None:
                line = (one.kind, one.key)
                highest[line] = max(highest.get(line, -1), one.number)


def _wholeness(writes: Sequence[Write], found: Found) -> Iterable[Complaint]:
    """What one transaction wrote arrives in one."""
    groups: dict[tuple[str, str, int], str] = {
        (w.kind, w.key, w.number): w.group for w in writes if w.group
    }
    transactions: dict[str, set[int]] = defaultdict(set)
    for one in found.arrivals:
        if group := groups.get((one.kind, one.key, one.number or 0)):
            transactions[group].add(one.transaction)
    torn = [group for group, seen in transactions.items() if len(seen) > 1]
    if torn:
        yield Complaint("torn", f"{len(torn)} transactions arrived in pieces, {torn[0]} first")


_WITNESS = """
DROP SCHEMA IF EXISTS witness CASCADE;
CREATE SCHEMA witness;
CREATE TABLE witness.arrivals (
    n bigserial PRIMARY KEY, tx bigint NOT NULL DEFAULT txid_current(),
    kind text NOT NULL, key text NOT NULL, number bigint
);
CREATE FUNCTION witness.fact() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO witness.arrivals (kind, key, number) VALUES ('fact', NEW.device, NEW.value);
    RETURN NULL; END $$;
CREATE FUNCTION witness.shared() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'UPDATE' AND NEW.description IS NOT DISTINCT FROM OLD.description THEN
        RETURN NULL;
    END IF;
    IF NEW.description ~ '^[0-9]+$' THEN
        INSERT INTO witness.arrivals (kind, key, number)
        VALUES ('set', NEW.name, NEW.description::bigint);
    END IF;
    RETURN NULL; END $$;
CREATE TRIGGER witness_fact AFTER INSERT ON readings
    FOR EACH ROW EXECUTE FUNCTION witness.fact();
CREATE TRIGGER witness_shared AFTER INSERT OR UPDATE ON devices
    FOR EACH ROW EXECUTE FUNCTION witness.shared();
"""


class Witness:
    """Sees on the hub what arrives, and when; the tables of telemetry must be there.

    *execute* runs SQL on the hub, beside every fault, and returns rows. A fact is a
    reading, its number the value; a shared row is a device, its number the description.
    """

    def __init__(self, execute: Callable[[str], Sequence[Sequence[object]]]) -> None:
        self._execute = execute

    def install(self) -> None:
        """Put the triggers there; what arrived before them has no order."""
        for statement in _split(_WITNESS):
            self._execute(statement)

    def look(self) -> Found:
        """Return what the hub holds now."""
        facts = self._execute("SELECT id::text, device, value::bigint FROM readings")
        devices = self._execute(
            "SELECT name, description FROM devices WHERE description ~ '^[0-9]+$'"
        )
        arrivals = self._execute("SELECT tx, kind, key, number FROM witness.arrivals ORDER BY n")
        return Found(
            facts=[Fact(str(a), str(b), int(str(c))) for a, b, c in facts],
            shared={str(name): int(str(number)) for name, number in devices},
            arrivals=[
                Arrival(int(str(tx)), str(kind), str(key), None if n is None else int(str(n)))
                for tx, kind, key, n in arrivals
            ],
            conflicts=self._count("sync_conflicts"),
            dead_letters=self._count("sync_dead_letters"),
            streams=self._count("sync_streams"),
        )

    def _count(self, table: str) -> int:
        if self._execute(f"SELECT to_regclass('{table}')")[0][0] is None:
            return 0
        return int(str(self._execute(f"SELECT count(*) FROM {table}")[0][0]))


def _split(script: str) -> Iterable[str]:
    """Split at the semicolons that are outside of a function's body."""
    statement = ""
    for piece in script.split(";"):
        statement += piece
        if statement.count("$$") % 2 == 0:
            if statement.strip():
                yield statement
            statement = ""
        else:
            statement += ";"
