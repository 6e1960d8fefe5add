# SPDX-License-Identifier: Apache-2.0
"""The rows that a downgrade of PostgreSQL takes something from, in a file of this box."""

import gzip
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgepaas.files.atomic import move_durably, sync_file
from edgepaas.files.paths import Paths

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: Of these files, the newest are kept.
KEPT = 2
_PREFIX = "postgres-before-downgrade-"
_AT_ONCE = 1000


def keep_rows(connection: "Connection", paths: Paths, tables: Sequence[str]) -> Path | None:
    """Write every row of *tables* to ``state/``, one JSON document a line; None without tables.

    Synced before it returns. Raises what the database raises, OSError.
    """
    if not tables:
        return None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = paths.state / f"{_PREFIX}{stamp}.ndjson.gz"
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8") as file:
            _write(connection, tables, file)
        sync_file(temporary)
        move_durably(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _prune(paths.state.glob(f"{_PREFIX}*.ndjson.gz"))
    return target


def _write(connection: "Connection", tables: Sequence[str], file: TextIO) -> None:
    quote = connection.dialect.identifier_preparer.quote
    for table in tables:
        statement = (
            f"DECLARE kept NO SCROLL CURSOR FOR SELECT json_build_object('table', "  # noqa: S608
            f"'{table.replace(chr(39), chr(39) * 2)}'::text, 'row', row_to_json(t))::text "
            f"FROM {quote(table)} AS t"
        )
        connection.exec_driver_sql(statement.replace("%", "%%"))
        while rows := connection.exec_driver_sql(f"FETCH {_AT_ONCE} FROM kept").all():
            file.writelines(f"{row[0]}\n" for row in rows)
        connection.exec_driver_sql("CLOSE kept")


def _prune(files: Iterable[Path]) -> None:
    for old in sorted(files)[:-KEPT]:
        old.unlink()
