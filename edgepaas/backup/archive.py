# SPDX-License-Identifier: Apache-2.0
"""The backup as a file: a compressed tar whose first member lists the others with their hashes."""

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.atomic import write_all
from edgepaas.files.records import MOST_BYTES, NotThisRecord, RecordType

#: Roles of members: the SQLite file, the box's journal, the settings, and everything else.
DATABASE, JOURNAL, SETTINGS, STATE = "database", "journal", "settings", "state"

_MANIFEST = "manifest.json"
#: Most of the gain of zlib at a third of the time of its default, on a small processor.
_LEVEL = 3
_CHUNK = 1024 * 1024

RECORD = RecordType(
    "backup",
    1,
    {
        "made_at": shapes.text,
        "build": shapes.text,
        "name": shapes.text,
        "node": shapes.optional(
            shapes.object_of(
                {
                    "node_id": shapes.text,
                    "made_at": shapes.text,
                    "machine": shapes.text,
                    "was": shapes.list_of(shapes.text),
                }
            )
        ),
        "rows_waiting": shapes.whole,
        "members": shapes.list_of(
            shapes.object_of(
                {
                    "name": shapes.text,
                    "role": shapes.text,
                    "size": shapes.whole,
                    "sha256": shapes.text,
                }
            )
        ),
    },
)


class DamagedBackup(EdgePaaSError):
    """The file is no backup, or not the whole of one."""


@dataclass(frozen=True)
class Member:
    """A file of the backup, by its name there."""

    name: str
    role: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself; *node* as in ``node.json``, None: the box had none."""

    made_at: str
    build: str
    name: str
    node: dict[str, Any] | None
    rows_waiting: int
    members: tuple[Member, ...]

    def one(self, role: str) -> Member | None:
        """Return the member with this *role*, if there is one."""
        return next((one for one in self.members if one.role == role), None)

    @property
    def size(self) -> int:
        """The bytes of all members, unpacked."""
        return sum(one.size for one in self.members)


def member_of(file: Path, name: str, role: str) -> Member:
    """Describe *file*, which is not written any more; raises OSError."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return Member(name, role, size, digest.hexdigest())


def write(target: IO[bytes], manifest: Manifest, folder: Path) -> None:
    """Write the backup of the members in *folder* to *target*; raises OSError."""
    fields = {**asdict(manifest), "members": [asdict(one) for one in manifest.members]}
    text = RECORD.render(fields).encode()
    with (
        gzip.GzipFile(fileobj=target, mode="wb", compresslevel=_LEVEL, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        tar.addfile(_info(_MANIFEST, len(text)), io.BytesIO(text))
        for member in manifest.members:
            with (folder / member.name).open("rb") as source:
                tar.addfile(_info(member.name, member.size), source)
    target.flush()


def verify(source: IO[bytes]) -> Manifest:
    """Read the whole backup and compare every byte with its manifest; raises DamagedBackup."""
    return _read(source, lambda _member: None)


def extract(source: IO[bytes], folder: Path) -> Manifest:
    """Unpack the backup into the empty *folder*, verified; raises DamagedBackup, OSError."""

    def place(member: Member) -> Path:
        target = folder / member.name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return target

    return _read(source, place)


def _read(source: IO[bytes], place: Callable[[Member], Path | None]) -> Manifest:
    try:
        with (
            gzip.GzipFile(fileobj=source, mode="rb") as packed,
            tarfile.open(fileobj=packed, mode="r|") as tar,
        ):
            found = iter(tar)
            first = next(found, None)
            if first is None or first.name != _MANIFEST or first.size > MOST_BYTES:
                raise DamagedBackup("it is no backup of EdgePaaS: it does not begin with its list")
            manifest = _manifest(_whole(tar, first))
            wanted = {one.name: one for one in manifest.members}
            for info in found:
                member = wanted.pop(info.name, None)
                if member is None or not info.isreg() or info.size != member.size:
                    raise DamagedBackup(f"{info.name} is not what the backup's list says")
                _copy(tar, info, member, place(member))
            if wanted:
                raise DamagedBackup(f"{next(iter(wanted))} is missing from it")
            while packed.read(_CHUNK):  # to the end, where the checksum of all of it stands
                continue
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedBackup(f"it is damaged, or no backup: {error}") from error
    return manifest


def _manifest(data: bytes) -> Manifest:
    try:
        fields = RECORD.parse(data)
    except NotThisRecord as error:
        raise DamagedBackup(f"its list is not understood: {error}") from error
    members = tuple(Member(**one) for one in fields["members"])
    _require_plain_names(members)
    return Manifest(**{**fields, "members": members})


def _require_plain_names(members: Iterable[Member]) -> None:
    seen = set()
    for one in members:
        parts = PurePosixPath(one.name).parts
        if not parts or one.name.startswith("/") or ".." in parts or "\0" in one.name:
            raise DamagedBackup(f"it names a file outside of the box: {one.name!r}")
        if one.name in seen:
            raise DamagedBackup(f"it names {one.name} twice")
        seen.add(one.name)


def _whole(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(info)
    if content is None:
        raise DamagedBackup(f"{info.name} is no file")
    return content.read()


def _copy(tar: tarfile.TarFile, info: tarfile.TarInfo, member: Member, target: Path | None) -> None:
    content = tar.extractfile(info)
    if content is None:
        raise DamagedBackup(f"{info.name} is no file")
    digest = hashlib.sha256()
    descriptor = -1
    if target is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(target, flags, 0o600)
    try:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            if descriptor >= 0:
                write_all(descriptor, chunk)
        if descriptor >= 0:
            os.fsync(descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if digest.hexdigest() != member.sha256:
        raise DamagedBackup(f"{member.name} was changed since the backup was made")


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info
