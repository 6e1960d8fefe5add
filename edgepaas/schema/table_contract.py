# SPDX-License-Identifier: Apache-2.0
"""``run/tables.json``: the tables, for processes that are to know them without SQLAlchemy.

Making it needs the application's models, and with them SQLAlchemy; so what was made is
kept in the state folder with the size and time of every file it was made from, and a boot
with nothing new copies it.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.build import build_version
from edgepaas.files.atomic import write_atomic
from edgepaas.files.paths import Paths
from edgepaas.schema.chain import Chain

if TYPE_CHECKING:
    from sqlalchemy import MetaData

CACHE = "tables-cache.json"
#: What :func:`describe` returns; counted up when its form changes, so that no cache outlives it.
_FORM = 2


def remembered(paths: Paths, application: str, chain: Chain) -> dict[str, Any] | None:
    """Return tables.json's content if nothing it was made from has changed, else None."""
    made_for = _identity(application, chain)
    try:
        kept = json.loads((paths.state / CACHE).read_text(encoding="utf-8"))
        if kept["made_for"] != made_for:
            return None
        for name, stamp in kept["sources"].items():
            if _stamp(Path(name)) != stamp:
                return None
        document = kept["document"]
        if not isinstance(document["tables"], dict) or not isinstance(document["fingerprint"], str):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a cache: what is wrong with it is mended by making it again
    return dict(document)


def publish(paths: Paths, document: dict[str, Any]) -> None:
    """Write ``run/tables.json`` unless it says this already."""
    try:
        kept = json.loads(paths.tables.read_text(encoding="utf-8"))
        if kept == document:
            return
    except (OSError, ValueError, RecursionError):
        pass  # absent or torn: it is written below
    write_atomic(paths.tables, json.dumps(document, indent=1) + "\n")


def make(
    paths: Paths, application: str, chain: Chain, metadata: "MetaData | None"
) -> dict[str, Any]:
    """Return tables.json's content, made from the models, and keep it for the next boot."""
    tables = {} if metadata is None else describe(metadata)
    revision = sorted(chain.heads)
    text = json.dumps([revision, tables], sort_keys=True)
    document = {
        "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:32],
        "revision": revision,
        "tables": tables,
    }
    sources = {str(path): _stamp(path) for path in _sources(application, chain)}
    cache = {
        **_cache(paths),
        "made_for": _identity(application, chain),
        "sources": sources,
        "document": document,
    }
    write_atomic(paths.state / CACHE, json.dumps(cache))
    return document


def last_user(paths: Paths, file: Path) -> str:
    """Return the name of the application that used the SQLite *file* last; empty: unknown."""
    owner = _cache(paths).get("owner")
    if not isinstance(owner, dict) or owner.get("file") != str(file):
        return ""
    return str(owner.get("application", ""))


def note_user(paths: Paths, file: Path, application: str) -> None:
    """Remember that *application* uses the SQLite *file*."""
    if last_user(paths, file) != application:
        owner = {"file": str(file), "application": application}
        write_atomic(paths.state / CACHE, json.dumps({**_cache(paths), "owner": owner}))


def describe(metadata: "MetaData") -> dict[str, Any]:
    """Return each table's kind, columns, key and ``foreign``: the tables that it points to.

    Tables come in the order in which rows can be written: what one points to is before it.
    A column's ``type`` is PostgreSQL's, its ``storage`` SQLite's; ``merge`` and
    ``filled_from`` say what becomes of it where a row that is there is met
    (edgepaas.outbox.layout).
    """
    from sqlalchemy.dialects import postgresql, sqlite

    hub, box = postgresql.dialect(), sqlite.dialect()  # type: ignore[no-untyped-call]
    return {
        table.name: {
            "kind": table.info.get("kind", "local"),
            "columns": [
                {
                    "name": column.name,
                    "type": column.type.compile(hub),
                    "storage": column.type.compile(box),
                    "nullable": bool(column.nullable),
                    "primary_key": column.primary_key,
                    "merge": column.info.get("merge", ""),
                    "filled_from": column.info.get("filled_from", ""),
                }
                for column in table.columns
            ],
            "key": [column.name for column in table.primary_key.columns],
            "foreign": sorted({key.column.table.name for key in table.foreign_keys}),
        }
        for table in metadata.sorted_tables
    }


def _cache(paths: Paths) -> dict[str, Any]:
    try:
        kept = json.loads((paths.state / CACHE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a cache: what is wrong with it is mended by making it again
    return kept if isinstance(kept, dict) else {}


def _identity(application: str, chain: Chain) -> list[object]:
    return [application, build_version(), _FORM, str(chain.folder), sorted(chain.heads)]


def _sources(application: str, chain: Chain) -> Iterable[Path]:
    """The files whose change may change the tables: migrations and the application's modules."""
    if chain.folder is not None:
        if (chain.folder / "versions").is_dir():
            yield chain.folder / "versions"  # a file more or less changes the folder's time
        yield from chain.scripts()
    roots = {"edgepaas", application.partition(":")[0].partition(".")[0]}
    roots |= {name.partition(".")[0] for name in _entry_point_module(application)}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in roots and (file := getattr(module, "__file__", None)):
            yield Path(file)


def _entry_point_module(application: str) -> Iterable[str]:
    from importlib.metadata import entry_points

    for point in entry_points(group="edgepaas.application", name=application):
        yield point.module


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    # A folder's size says nothing, and __pycache__ beside the scripts changes only its own.
    return [status.st_mtime_ns, 0 if path.is_dir() else status.st_size]
