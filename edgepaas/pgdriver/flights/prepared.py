# SPDX-License-Identifier: Apache-2.0
"""The statements that a server keeps prepared for one connection (PostgreSQL manual, PREPARE).

A statement that comes for the second time is kept: from the third time on the server neither
parses nor describes it. Only the server's own connection may keep any: behind a pooler the
next transaction may be another server's. A long text is not kept: it seldom comes again.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from edgepaas.pgdriver.failures import server_field
from edgepaas.pgdriver.flights import messages
from edgepaas.pgdriver.flights.answers import Answer, RowFormat
from edgepaas.pgdriver.flights.statements import LONGEST_KEPT

#: Statements that are kept; each takes some kilobytes of the server's memory.
MOST = 64
#: Texts that were seen once.
_SEEN = 256

#: invalid_sql_statement_name, duplicate_prepared_statement: another session's than was thought.
_NOT_THERE = frozenset({"26000", "42P05"})
#: The server's function that refuses a plan whose rows have changed, in any language.
_CHANGED = "RevalidateCachedQuery"

_Key = tuple[bytes, tuple[int, ...]]


@dataclass
class _Kept:
    name: bytes
    format: RowFormat | None


class PreparedStatements:
    """Which statements are kept, and the messages that run one."""

    def __init__(self) -> None:
        #: Whether any may be kept.
        self.allowed = False
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._seen: OrderedDict[_Key, None] = OrderedDict()
        self._closing: list[bytes] = []
        self._made = 0
        #: What the flight that is on its way keeps if it succeeds, and what it closes.
        self._pending: list[tuple[_Key, bytes, Answer]] = []
        self._pending_closing: list[bytes] = []

    def messages(
        self, text: bytes, parameters: Sequence[bytes | None], types: Sequence[int]
    ) -> tuple[bytes, Answer]:
        """Return what runs *text*, and the answer that is to be read."""
        if not self.allowed or len(text) > LONGEST_KEPT:
            return messages.statement(text, parameters, types), Answer()
        key = (text, tuple(types))
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return (
                messages.bind(parameters, name=kept.name) + messages.EXECUTE,
                Answer(kept.format),
            )
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
            return messages.statement(text, parameters, types), Answer()
        self._made += 1
        name, answer = f"edgepaas_{self._made}".encode("ascii"), Answer()
        self._pending.append((key, name, answer))
        del self._seen[key]
        closing = b"".join(map(messages.close_statement, self._closing))
        self._pending_closing += self._closing
        self._closing.clear()
        return (
            closing
            + messages.parse(text, name=name, types=types)
            + messages.bind(parameters, name=name)
            + messages.DESCRIBE
            + messages.EXECUTE,
            answer,
        )

    def succeeded(self) -> None:
        """Keep what the flight has prepared."""
        for key, name, answer in self._pending:
            self._kept[key] = _Kept(name, answer.format)
            if len(self._kept) > MOST:
                self._closing.append(self._kept.popitem(last=False)[1].name)
        self._pending.clear()
        self._pending_closing.clear()

    def unsent(self) -> None:
        """Note that the flight whose messages were made is not sent."""
        self._pending.clear()
        self._close_later()

    def failed(self, error: BaseException) -> bool:
        """Note that the flight failed; whether a statement that was kept is the cause.

        Nothing of that statement has run, and the next flight prepares it anew.
        """
        # Perhaps it was prepared before the error came.
        self._closing += [name for _, name, _ in self._pending]
        self._pending.clear()
        self._close_later()
        if not is_stale(error):
            return False
        if server_field(error, "C") in _NOT_THERE:
            self.allowed = False
        self.forget()
        return True

    def forget(self) -> None:
        """Prepare everything anew."""
        self._seen.clear()
        self._closing += [kept.name for kept in self._kept.values()]
        self._kept.clear()

    def _close_later(self) -> None:
        """Close with another flight what this one did not; to close it twice is no error."""
        self._closing += self._pending_closing
        self._pending_closing.clear()


def is_stale(error: BaseException) -> bool:
    """Whether *error* is of a prepared statement that is gone, or whose rows have changed."""
    return server_field(error, "C") in _NOT_THERE or server_field(error, "R") == _CHANGED
