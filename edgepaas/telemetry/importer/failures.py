# SPDX-License-Identifier: Apache-2.0
"""What an import fails with, and how its messages count and quote."""

from edgepaas.app.errors import EdgePaaSError

#: Characters of a cell that a message shows.
_SHOWN = 40


class ImportFailed(EdgePaaSError):
    """The file cannot be imported, or not to its end; the message says where and what to do."""


def counted(number: int, thing: str) -> str:
    """Return e.g. ``1 reading`` or ``22,695 readings``; *thing* takes an s in the plural."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def quoted_cell(cell: str) -> str:
    """Return *cell* in quotes, printable and not long."""
    return ascii(cell if len(cell) <= _SHOWN else cell[:_SHOWN] + "...")
