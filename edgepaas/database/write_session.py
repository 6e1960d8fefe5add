# SPDX-License-Identifier: Apache-2.0
"""The session that a write works on, the same on both databases."""

from typing import NoReturn

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session


class WriteSession(Session):
    """The session that a write works on: the transaction's end is not its own to decide."""

    def __init__(self, bind: Connection | Engine) -> None:
        super().__init__(bind=bind, expire_on_commit=False)

    def commit(self) -> NoReturn:
        """Refuse: Database.write commits when the work returns."""
        raise TypeError("work given to Database.write does not commit: it returns")

    def rollback(self) -> NoReturn:
        """Refuse: Database.write rolls back when the work raises."""
        raise TypeError("work given to Database.write does not roll back: it raises")

    def finish(self) -> None:
        """Commit."""
        super().commit()

    def undo(self) -> None:
        """Roll back; objects that were added are as new as before, to be added once more."""
        super().rollback()
