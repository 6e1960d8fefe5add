# SPDX-License-Identifier: Apache-2.0
"""``run/tables.json``: the tables, for processes that are to know them without SQLAlchemy.

Making it needs the application's models, and with them SQLAlchemy; so what was made is
kept in the state folder with the size and time of every file it was made from, and a boot
with nothing new copies it.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.build import build_version
from edgepaas.files import shapes
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType
from edgepaas.outbox.layout import TABLES_RECORD
from edgepaas.schema.chain import Chain
from edgepaas.schema.strict_checks import checks_of, unique_of, values_of

if TYPE_CHECKING:
    from sqlalchemy import MetaData

logger = logging.getLogger("edgepaas.schema")

CACHE = "tables-cache.json"
_EMPTY_CACHE: dict[str, Any] = {"made_for": None, "sources": {}, "document": None, "owner": None}


def _owner_alone(old: dict[str, Any]) -> dict[str, Any]:
    return {**_EMPTY_CACHE, "owner": old.get("owner")}


#: ``state/tables-cache.json``: tables.json's content, what it was made from, and which
#: application used the SQLite file last. Each part may be missing.
CACHE_RECORD = RecordType(
    "tables-cache",
    3,
    {
        "made_for": shapes.anything,
        "sources": shapes.map_of(shapes.list_of(shapes.whole)),
        "document": shapes.optional(shapes.object_of(TABLES_RECORD.fields)),
        "owner": shapes.optional(
            shapes.object_of({"file": shapes.text, "application": shapes.text})
        ),
    },
    # Of older versions the owner alone is kept; everything else can be computed again.
    {1: _owner_alone, 2: _owner_alone},
)


def remembered(paths: Paths, application: str, chain: Chain) -> dict[str, Any] | None:
    """Return tables.json's content if nothing it was made from has changed, else None."""
    kept = _cache(paths)
    if kept["document"] is None or kept["made_for"] != _identity(application, chain):
        return None
    try:
        if any(_stamp(Path(name)) != stamp for name, stamp in kept["sources"].items()):
            return None
    except (OSError, ValueError):  # a file that is gone; a name that no file can have
        return None
    return dict(kept["document"])


def publish(paths: Paths, document: dict[str, Any]) -> None:
    """Write ``run/tables.json`` unless it says this already."""
    if TABLES_RECORD.read_or_none(paths.tables) != document:
        TABLES_RECORD.write(paths.tables, document)


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
    sources = {str(path): _stamp(path) for path in source_files(application, chain)}
    cache = {
        **_cache(paths),
        "made_for": _identity(application, chain),
        "sources": sources,
        "document": document,
    }
    _keep(paths, cache)
    return document


def last_user(paths: Paths, file: Path) -> str:
    """Return the name of the application that used the SQLite *file* last; empty: unknown."""
    owner = _cache(paths)["owner"]
    return str(owner["application"]) if owner is not None and owner["file"] == str(file) else ""


def current_application(paths: Paths) -> str:
    """Return the name of the application that the box ran last; empty: unknown."""
    owner = _cache(paths)["owner"]
    return "" if owner is None else str(owner["application"])


def note_user(paths: Paths, file: Path, application: str) -> None:
    """Remember that *application* uses the SQLite *file*."""
    if last_user(paths, file) != application:
        owner = {"file": str(file), "application": application}
        _keep(paths, {**_cache(paths), "owner": owner})


def describe(metadata: "MetaData") -> dict[str, Any]:
    """Return each table's kind, columns, key and ``foreign``: the tables that it points to.

    Tables come in the order in which rows can be written: what one points to is before it.
    A column's ``type`` is PostgreSQL's, its ``storage`` SQLite's; ``merge`` and
    ``filled_from`` say what becomes of it where a row that is there is met
    (edgepaas.outbox.layout). ``values`` are the words of an enumeration; ``checks`` and ``unique``
    are what PostgreSQL checks beside them (edgepaas.schema.strict_checks).
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
                    "values": values_of(column),
                }
                for column in table.columns
            ],
            "key": [column.name for column in table.primary_key.columns],
            "foreign": sorted({key.column.table.name for key in table.foreign_keys}),
            "checks": checks_of(table),
            "unique": unique_of(table),
        }
        for table in metadata.sorted_tables
    }


def _cache(paths: Paths) -> dict[str, Any]:
    # A cache: what is wrong with it is mended by making it again.
    return CACHE_RECORD.read_or_none(paths.state / CACHE) or dict(_EMPTY_CACHE)


def _keep(paths: Paths, cache: dict[str, Any]) -> None:
    """Write the cache; a full disk is no reason for the schema stage to fail."""
    try:
        CACHE_RECORD.write(paths.state / CACHE, cache)
    except OSError as error:
        logger.warning("%s is not written, and is made again: %s", paths.state / CACHE, error)


def _identity(application: str, chain: Chain) -> list[object]:
    return [
        application,
        build_version(),
        TABLES_RECORD.version,
        str(chain.folder),
        sorted(chain.heads),
    ]


def source_files(application: str, chain: Chain) -> Iterable[Path]:
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


def application_files(application: str) -> list[Path]:
    """Return the source files of the *application*'s own packages, imported or not.

    None of this platform's, for which its version stands.
    """
    roots = {application.partition(":")[0].partition(".")[0]}
    roots |= {name.partition(".")[0] for name in _entry_point_module(application)}
    found: list[Path] = []
    for root in sorted(roots - {"edgepaas"}):
        module = sys.modules.get(root)
        if (file := getattr(module, "__file__", None)) is None:
            continue
        package = hasattr(module, "__path__")
        found += sorted(Path(file).parent.rglob("*.py")) if package else [Path(file)]
    return found


def _entry_point_module(application: str) -> Iterable[str]:
    from importlib.metadata import entry_points

    for point in entry_points(group="edgepaas.application", name=application):
        yield point.module


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    # A folder's size says nothing, and __pycache__ beside the scripts changes only its own.
    return [status.st_mtime_ns, 0 if path.is_dir() else status.st_size]
