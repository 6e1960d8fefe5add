# SPDX-License-Identifier: Apache-2.0
"""Named, versioned records: the one form of our state files.

A record is a JSON object that names itself: ``{"record": "node", "version": 2, …}``. What a
reader gets is exactly what the running build declares for it: every field, no other, each of
its type. A file of an older version is migrated as it is read, and is in the new form from
the next write on. Files of the releases before records had names are version 1 of them.

What cannot be understood (a newer version, another record, garbage, half a file) is never
used in part. In the state folder it is set aside: renamed beside its place, kept, and
reported in the log; the box goes on as if there were none. In ``run/``, which holds what the
processes of one build tell each other since the boot, it counts as absent and is overwritten.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgepaas.files.atomic import sync_folder, write_atomic, write_unsynced
from edgepaas.files.shapes import Misshapen, Shape, object_of

logger = logging.getLogger("edgepaas.files")

#: What was logged of files that stay where they are; once a process.
_reported: set[str] = set()

Fields = dict[str, Any]
#: What turns the fields of one version into those of the next one. It gets what the file
#: holds, unchecked, so it may raise what wrong types raise: the file is then not understood.
Migration = Callable[[Any], Any]

_NO_MIGRATIONS: Mapping[int, Migration] = {}
#: The version of a file that does not name itself.
UNNAMED = 1
#: No record of a box is larger; a file that something else blew up must not hold a boot.
MOST_BYTES = 16 * 1024 * 1024
#: Files of one name that are kept aside: the first ones, and the latest.
MOST_ASIDE = 5
#: Behind a file's name when it is set aside, followed by a number.
ASIDE = ".set-aside-"


class NotThisRecord(ValueError):
    """The content is no such record, or of a version that is not known; says which."""


def same_fields(content: Any) -> Any:
    """Migrate a version whose fields are the next one's."""
    return content


class RecordType(NamedTuple):
    """One kind of state file: its name, its version, its fields and how older ones are read.

    *migrations* has, by version, what leads to the next one; a version that is not in it is
    not understood.
    """

    name: str
    version: int
    fields: Mapping[str, Shape]
    migrations: Mapping[int, Migration] = _NO_MIGRATIONS

    def document(self, fields: Mapping[str, Any]) -> Fields:
        """Return *fields* as the object that a file holds; Misshapen for wrong ones."""
        object_of(self.fields)(dict(fields), "")
        return {"record": self.name, "version": self.version, **fields}

    def render(self, fields: Mapping[str, Any], *, indent: int | None = 1) -> str:
        """Return the text of a file that holds *fields*; Misshapen for wrong ones."""
        return json.dumps(self.document(fields), indent=indent) + "\n"

    def header(self) -> str:
        """Return the beginning of a file whose fields follow as text that is JSON already."""
        return f'{{"record": {json.dumps(self.name)}, "version": {self.version},\n'

    def write(self, path: Path, fields: Mapping[str, Any], *, mode: int = 0o600) -> None:
        """Replace *path* by a record of *fields*, durably; raises OSError, Misshapen."""
        write_atomic(path, self.render(fields), mode=mode)

    def write_unsynced(self, path: Path, fields: Mapping[str, Any]) -> None:
        """Replace *path* by a record of *fields*, not synced: for ``run/``; raises OSError."""
        write_unsynced(path, self.render(fields))

    def fields_of(self, content: Any) -> Fields:
        """Return the fields in *content*, a parsed file, in the present version.

        Raises NotThisRecord.
        """
        version: Any = UNNAMED
        if isinstance(content, dict) and "record" in content:
            if content["record"] != self.name:
                raise NotThisRecord(f"it is the record {content['record']!r:.60}, not {self.name}")
            version = content.get("version")
            content = {k: v for k, v in content.items() if k not in ("record", "version")}
        if not isinstance(version, int) or isinstance(version, bool) or version > self.version:
            raise NotThisRecord(f"its version is {version!r:.60}, this build knows {self.version}")
        try:
            for number in range(version, self.version):
                migrate = self.migrations.get(number)
                if migrate is None:
                    raise NotThisRecord(f"its version is {version}, which is not known")
                content = migrate(content)
            object_of(self.fields)(content, "")
        except NotThisRecord:
            raise
        except KeyError as error:
            raise NotThisRecord(f"version {version} of it lacks {error}") from error
        except Misshapen as error:
            raise NotThisRecord(str(error)) from error
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
            raise NotThisRecord(f"version {version} of it cannot be migrated: {error}") from error
        return dict(content)

    def parse(self, data: bytes | str) -> Fields:
        """Return the fields of a file's content *data*; raises NotThisRecord."""
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            raise NotThisRecord(f"it is no whole JSON document ({error})") from error
        return self.fields_of(content)

    def read(self, path: Path) -> Fields | None:
        """Return the fields that *path* holds, None where there is no file.

        Raises NotThisRecord, and OSError where the file cannot be read at all.
        """
        found = _content(path)
        return None if found is None else self.parse(found[0])

    def read_or_none(self, path: Path) -> Fields | None:
        """Return the fields that *path* holds; None for whatever cannot be read. Never raises.

        For ``run/``, where the process that writes the file writes it again.
        """
        try:
            return self.read(path)
        except (OSError, NotThisRecord):
            return None

    def read_or_set_aside(self, path: Path) -> Fields | None:
        """Return the fields that *path* holds, None where there are none that are understood.

        A file that is not understood is set aside, which is logged once. Raises OSError where
        the file cannot be read, which says nothing about what is in it.
        """
        found = _content(path)
        if found is None:
            return None
        try:
            return self.parse(found[0])
        except NotThisRecord as problem:
            set_aside(path, self.name, problem, inode=found[1])
            return None


def set_aside(path: Path, name: str, problem: object, *, inode: int | None = None) -> Path | None:
    """Rename the file *path*, read as record *name*, beside itself and log it; its new path.

    *inode*: the file that was read; another one that has taken its place since is left where
    it is. None where nothing was renamed, or the folder takes no rename. Never raises.
    """
    aside = _free_name(path)
    try:
        path.rename(aside)
        if inode is not None and aside.stat().st_ino != inode:
            # Between the look and the rename a writer replaced it: that one is whole.
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()
            return None
        sync_folder(path.parent)
    except FileNotFoundError:
        return None  # another process was first
    except OSError as error:
        said = f"{path} is not understood as {name} ({problem}) and cannot be set aside ({error})"
        if said not in _reported:  # such a file is read again and again
            _reported.add(said)
            logger.error("%s: it counts as absent", said)
        return None
    logger.error(
        "%s is not understood as %s (%s): it was set aside as %s, and the box goes on without it",
        path, name, problem, aside.name,
    )  # fmt: skip
    return aside


def set_aside_sqlite(path: Path, name: str, problem: object) -> Path | None:
    """Rename the SQLite file *path*, which is closed, with its ``-wal`` and ``-shm``; log it.

    Returns its new path, None where it could not be renamed. Never raises.
    """
    aside = _free_name(path)
    try:
        for suffix in ("-shm", "-wal"):
            old, new = _beside(path, suffix), _beside(aside, suffix)
            if aside.exists():
                new.unlink(missing_ok=True)  # it belongs to the one that is replaced
            # Before the file itself: SQLite would take a -wal that stays for the next file's.
            if old.exists():
                old.replace(new)
    except OSError as error:
        logger.error("what lies beside %s cannot be set aside with it: %s", path, error)
        return None
    return set_aside(path, name, problem)


def files_set_aside(folder: Path) -> list[Path]:
    """Return the files in *folder* that were set aside, by name; none where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if ASIDE in path.name)
    except OSError:
        return []


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _free_name(path: Path) -> Path:
    """Return a name beside *path*; the last one is used again, so that they do not pile up."""
    names = [path.with_name(f"{path.name}{ASIDE}{n}") for n in range(1, MOST_ASIDE + 1)]
    return next((name for name in names if not os.path.lexists(name)), names[-1])


def _content(path: Path) -> tuple[bytes, int] | None:
    """Return what *path* holds, one byte more than MOST_BYTES at most, and its inode."""
    try:
        # Not blocking: a FIFO of that name must not block the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    # os.fdopen refuses a directory and leaves its descriptor open; this one is closed anyhow.
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1) or b""
        if len(data) > MOST_BYTES:
            data = b""  # no JSON document, so it is not understood
        return data, os.fstat(descriptor).st_ino
    except OSError as error:  # which names the descriptor's number instead of the file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)
