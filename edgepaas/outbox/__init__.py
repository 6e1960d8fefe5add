# SPDX-License-Identifier: Apache-2.0
"""The outbox: every change of a forwarded table, captured in the SQLite file by triggers.

Nothing here imports SQLAlchemy: the functions work on a ``sqlite3.Connection`` without
implicit transactions (``isolation_level=None``), as ``database.sqlite.open_sqlite`` opens it.
"""
