# SPDX-License-Identifier: Apache-2.0
"""Files of an application's own, beside its tables: in ``box.folder(NAME)``.

:func:`open_sqlite` opens a small SQLite file as the platform opens the box's database
(WAL, durable at every commit). :func:`write_atomic` replaces a file as a whole.
:func:`acquire` and :func:`held` take a lock between processes, which a new service waits
for while the one before it still drains; :class:`LockHeld` says that it was not given.
:func:`set_aside_sqlite` renames such a file that cannot be used, so that it is kept beside.
"""

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.atomic import write_atomic
from edgepaas.files.locks import LockHeld, acquire, held
from edgepaas.files.records import set_aside_sqlite

__all__ = ["LockHeld", "acquire", "held", "open_sqlite", "set_aside_sqlite", "write_atomic"]
