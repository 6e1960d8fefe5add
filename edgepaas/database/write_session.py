# SPDX-License-Identifier: Apache-2.0
"""The session that a write works on, the same on both databases."""

from typing import NoReturn

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session


class WriteSession(Session):
    """The session that a write works on: the transaction's end is not its own to decide.

    Nor is the session's: closed by the work, it would forget which objects the transaction
    has added, and the work that is run again would take them for rows that are stored.
    """

    def __init__(self, bind: Connection | Engine) -> None:
        super().__init__(bind=bind, expire_on_commit=False)

    def commit(self) -> NoReturn:
        """Refuse: Database.write commits when the work returns."""
        raise TypeError("work given to Database.write does not commit: it returns")

    def rollback(self) -> NoReturn:
        """Refuse: Database.write rolls back when the work raises."""
        raise TypeError("work given to Database.write does not roll back: it raises")

    def close(self) -> NoReturn:
        """Refuse: Database.write closes the session; so for ``with session:``."""
        raise TypeError("work given to Database.write does not close its session")

    def reset(self) -> NoReturn:
        """Refuse, as :meth:`close` does."""
        self.close()

    def invalidate(self) -> NoReturn:
        """Refuse, as :meth:`close` does."""
        self.close()

    def finish(self) -> None:
        """Commit."""
        super().commit()

    def undo(self) -> None:
        """Roll back; objects that were added are as new as before, to be added once more."""
        super().rollback()

    def release(self) -> None:
        """Close the session; what is not committed is rolled back."""
        super().close()
