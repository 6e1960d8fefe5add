# SPDX-License-Identifier: Apache-2.0
"""Numbers in sentences."""


def counted(number: int, thing: str) -> str:
    """Return e.g. ``1 reading`` or ``22,695 readings``; *thing* takes an s in the plural."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
