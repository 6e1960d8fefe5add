# SPDX-License-Identifier: Apache-2.0
"""The forwarding state: how the rows of the outbox are on their way to PostgreSQL.

Its fields are declared here, once, with what they mean and in which unit. The API's schema,
the metrics, the status page and the command line are rendered from these declarations; the
drainer's own record (``run/sync.json``) has the same fields and some more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple, cast

#: text: for a person; rows: a number of rows; moment: RFC 3339 in UTC; word: one of a few;
#: flag: true or false.
Unit = Literal["text", "rows", "moment", "word", "flag"]


class Declaration(NamedTuple):
    """One field of the state, for everything that shows it.

    *meaning* is a sentence. *label* stands before the value where a person reads it; empty:
    it is not shown there. *words*, of a word, say what each means to a person. *metric*:
    whether it is one. *command*: the sub-command of ``edgepaas sync`` that deals with it.
    """

    name: str
    unit: Unit
    meaning: str
    label: str = ""
    words: Mapping[str, str] | None = None
    metric: bool = False
    command: str = ""
    #: The field that follows the value, where it is not empty.
    explained_by: str = ""
    #: What follows the number, where a person reads it.
    suffix: str = ""
    #: Whether it may be null.
    optional: bool = False


def _declared(default: Any, unit: Unit, meaning: str, **more: Any) -> Any:
    return field(default=default, metadata={"unit": unit, "meaning": meaning, **more})


@dataclass
class DeliveryState:
    """What the drainer knows of the rows; see :class:`Forwarding` for what is shown of it."""

    state: str = _declared(
        "unknown",
        "word",
        "What the drainer does.",
        words={
            "idle": "nothing waits",
            "draining": "rows are being sent",
            "held": "rows wait for PostgreSQL",
            "blocked": "rows wait for a person",
            "no-hub": "there is no PostgreSQL to send them to",
            "unknown": "the drainer does not run",
        },
    )
    hub: str = _declared(
        "unknown",
        "word",
        "What PostgreSQL looked like at the last attempt.",
        label="PostgreSQL",
        explained_by="reason",
        metric=True,
        words={
            "ok": "accepts rows",
            "away": "away",
            "misconfigured": "refuses rows until an operator corrects it",
            "schema": "has a schema that does not fit the rows",
            "error": "answers with an error",
            "unknown": "unknown: edgepaas sync does not run",
        },
    )
    rows_waiting: int = _declared(
        0,
        "rows",
        "Rows on the box that PostgreSQL does not have.",
        label="waiting",
        metric=True,
        suffix=" rows to be sent",
    )
    reason: str = _declared("", "text", "Why, in one line; empty when there is nothing to explain.")
    waiting_since: str | None = _declared(
        None,
        "moment",
        "Since when rows have waited without a pause; absent while none wait.",
        label="since",
        metric=True,
        optional=True,
    )
    last_delivery: str | None = _declared(
        None,
        "moment",
        "When PostgreSQL last committed rows.",
        label="delivered",
        metric=True,
        optional=True,
    )
    dead_letters: int = _declared(
        0,
        "rows",
        "Rows that PostgreSQL refused, to be settled by an operator.",
        label="dead letters",
        metric=True,
        command="dead-letters",
    )
    conflicts: int = _declared(
        0,
        "rows",
        "Overwritten values that were recorded, not yet settled.",
        label="conflicts",
        metric=True,
        command="conflicts",
    )
    hub_lost: int = _declared(
        0,
        "rows",
        "Rows that PostgreSQL had confirmed and lost, not yet acknowledged.",
        label="lost there",
        metric=True,
        command="acknowledge",
    )
    hand_back: str = _declared(
        "",
        "text",
        "When PostgreSQL serves again, or why not yet; often empty.",
        label="hand-back",
    )
    server: str = _declared(
        "",
        "text",
        "The server that took the drainer's last connection, of those that DATABASE_URL names.",
        label="server",
    )


@dataclass
class Forwarding(DeliveryState):
    """The forwarding state as it is shown.

    *dead_letters* and *conflicts* are those that wait for a person, where PostgreSQL said
    so, else those that ever were; *hub_lost* those that no operator has acknowledged.
    """

    running: bool = _declared(True, "flag", "Whether the drainer runs.", metric=True)

    def as_dict(self) -> dict[str, Any]:
        """Return it as the routes show it."""
        return asdict(self)

    @property
    def problems(self) -> tuple[str, ...]:
        """What needs an operator, one line each with what to do; any of it is ``degraded``.

        Conflicts are not among it: nothing of them is lost, and boxes that share rows
        have some in every outage. PostgreSQL being away is not, either.
        """
        lines = []
        if not self.running:
            lines.append(
                "edgepaas sync does not run: rows stay on this box; 'systemctl status "
                "edgepaas-sync' says why ('edgepaas up' runs it by itself)"
            )
        elif self.state == "blocked" or self.hub in ("misconfigured", "schema", "error"):
            why = f": {self.reason}" if self.reason else ""
            lines.append(f"rows cannot go to PostgreSQL until an operator acts{why}")
        if self.dead_letters:
            lines.append(
                f"{_count(self.dead_letters, 'dead letter')}; 'edgepaas sync dead-letters' "
                "lists them"
            )
        if self.hub_lost:
            lines.append(
                f"PostgreSQL lost {_count(self.hub_lost, 'row')} that it had confirmed (an older "
                "backup?); once that is dealt with: 'edgepaas sync acknowledge'"
            )
        return tuple(lines)

    @property
    def line(self) -> str:
        """How the rows are, in one line for a person."""
        parts = [f"{_count(self.rows_waiting, 'row')} to be sent" if self.rows_waiting else ""]
        if self.rows_waiting and self.waiting_since:
            parts.append(f"since {self.waiting_since}")
        if self.conflicts:
            parts.append(_count(self.conflicts, "conflict"))
        if self.hand_back:
            parts.append(f"hand-back to PostgreSQL: {self.hand_back}")
        if self.hub == "away":
            parts.append(f"PostgreSQL is away{f' ({self.reason})' if self.reason else ''}")
        return ", ".join(part for part in parts if part) or "nothing waits for PostgreSQL"


def _declaration(one: "Field[Any]") -> Declaration:
    return Declaration(name=one.name, **cast("dict[str, Any]", dict(one.metadata)))


#: Every field of :class:`Forwarding`, in order.
DECLARATIONS = tuple(_declaration(one) for one in fields(Forwarding))


def words_of(name: str) -> tuple[str, ...]:
    """Return the words that the field *name* may be, ``unknown`` last."""
    (found,) = (one.words for one in DECLARATIONS if one.name == name)
    return tuple(found or ())


def display_lines(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Give label and text of what *values*, a forwarding state as a dict, tell a person.

    What is empty, or counts nothing, is left out; the rows that wait are always there.
    """
    for one in DECLARATIONS:
        value = values.get(one.name)
        if not one.label or value in (None, ""):
            continue
        if one.unit != "rows":
            why = f": {values[one.explained_by]}" if values.get(one.explained_by) else ""
            yield one.label, (one.words or {}).get(str(value), str(value)) + why
        elif value or not one.command:
            way = f"; 'edgepaas sync {one.command}'" if one.command else ""
            yield one.label, f"{value:,}{one.suffix}{way}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
