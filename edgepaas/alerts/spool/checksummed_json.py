# SPDX-License-Identifier: Apache-2.0
"""Files that show whether they are whole: indented JSON whose last line is its checksum.

An operator in trouble reads them with ``cat``; a file that a power cut or a dying card tore
differs from a whole one by its last line.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgepaas.files.records import RecordType

#: No file of the spool is larger but digests; a foreign file may be.
MOST_BYTES = 1024 * 1024

_MARK = ',\n  "checksum": "sha256:'
_END = '"\n}\n'


class Damaged(ValueError):
    """The file is torn, empty, or none that was written here; the message gives the reason."""


def checksummed_json(entry: Mapping[str, Any]) -> bytes:
    """Return *entry* as the bytes of a file, ``checksum`` being its last line."""
    body = json.dumps(entry, indent=2, ensure_ascii=False)
    return f"{body[:-2]}{_MARK}{_checksum(body)}{_END}".encode()


def checksummed_record(record: RecordType, fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file that holds the *record* of *fields*.

    Its name and version come last: what a person looks for is in front.
    """
    named = record.document(fields)
    return checksummed_json({**fields, "record": named["record"], "version": named["version"]})


def parse_checksummed(content: bytes) -> dict[str, Any]:
    """Return what :func:`checksummed_json` was given; raises Damaged."""
    if not content:
        raise Damaged("it is empty")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise Damaged("it is no text") from None
    head, mark, tail = text.rpartition(_MARK)
    if not mark:
        raise Damaged("it has no checksum: it was torn, or not written by EdgePaaS")
    body = head + "\n}"
    if tail != _checksum(body) + _END:
        raise Damaged("its checksum is wrong")
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        raise Damaged("it is no JSON") from None
    if not isinstance(entry, dict):
        raise Damaged("it is no JSON object")
    return entry


def read_checksummed(path: Path) -> dict[str, Any]:
    """Return the entry in *path*; raises Damaged, FileNotFoundError or another OSError."""
    return parse_checksummed(read_regular(path))


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file; Damaged for anything else, which it never waits for."""
    try:
        # Whatever lies there under the name: a pipe must not be waited for, nor a link followed.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"it cannot be read ({error.strerror})") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Damaged("it is no regular file")
        if status.st_size > MOST_BYTES:
            raise Damaged(f"it is larger than {MOST_BYTES} bytes")
        chunks = []
        while chunk := os.read(descriptor, 65536):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def _checksum(text: str) -> str:
    import hashlib  # 4 ms, and most processes raise nothing

    return hashlib.sha256(text.encode()).hexdigest()
