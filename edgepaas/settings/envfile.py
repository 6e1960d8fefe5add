# SPDX-License-Identifier: Apache-2.0
"""A tolerant reader of ``edgepaas.env``, however it was written or copied.

It never raises for what the file holds; what cannot be understood is reported with its
line number, and never repeated, since it may be half of a password.
"""

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

#: More than this is no file of settings; the rest is not read.
LONGEST_FILE = 16 * 1024 * 1024
LONGEST_LINE = 64 * 1024

_ASSIGNMENT = re.compile(r"(?:(export|set)\s+)?([A-Za-z_][A-Za-z0-9_.-]*)(\s*)=(.*)\Z", re.DOTALL)
_COMMENT = re.compile(r"\s#")
_ESCAPED = re.compile(r'\\(["\\$`])')
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u201e": "\u201c"}


class Entry(NamedTuple):
    """One assignment: the value, its line, and what the reader removed."""

    name: str
    text: str
    line: int
    notes: tuple[str, ...] = ()


@dataclass
class EnvFile:
    """The content of a file of settings; *remarks* are (name or empty, message) pairs."""

    entries: dict[str, Entry] = field(default_factory=dict)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    missing: bool = False


class UnreadableFile(ValueError):
    """The file cannot be read; the message says why, without the path."""


def read_env_file(path: Path) -> EnvFile:
    """Read *path*; a missing file is an empty one, an unreadable one is remarked."""
    try:
        data = read_regular_file(path, LONGEST_FILE + 1)
    except FileNotFoundError:
        return EnvFile(missing=True)
    except UnreadableFile as error:
        return EnvFile(remarks=[("", f"is not read: it {error}")])
    parsed = parse_env(data[:LONGEST_FILE])
    if len(data) > LONGEST_FILE:
        parsed.remarks.append(("", f"is read up to {LONGEST_FILE} bytes, the rest is not"))
    return parsed


def read_regular_file(path: Path, limit: int) -> bytes:
    """Return up to *limit* bytes of a regular file.

    Raises FileNotFoundError, and UnreadableFile for a folder, a pipe or a device (which
    could block for ever) and for every other failure.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableFile(f"cannot be opened ({reason})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnreadableFile("is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(limit)
    except OSError as error:
        raise UnreadableFile(f"cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)


def parse_env(data: bytes) -> EnvFile:
    """Read the bytes of a file of settings."""
    result = EnvFile()
    problems: dict[str, list[int]] = {}  # what is wrong → in which lines
    places: dict[str, list[int]] = {}  # name → the lines that set it
    data, note = _as_utf8(data)
    if note:
        result.remarks.append(("", note))
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for number, raw in enumerate(lines, start=1):
        try:
            entry = _parse_line(raw, number)
        except UnreadableFile as error:
            problems.setdefault(str(error), []).append(number)
            continue
        if entry is None:
            continue
        result.entries[entry.name] = entry
        places.setdefault(entry.name, []).append(number)
    for name, numbers in places.items():
        if len(numbers) > 1:
            result.remarks.append((name, f"is set in {_lines(numbers)}; the last counts"))
    for problem, numbers in problems.items():
        result.remarks.append(("", f"{_lines(numbers)} left out: {problem}"))
    return result


def decode_text(data: bytes) -> str:
    """Return *data* as text, whatever byte-order mark it has; UnreadableFile if it is none."""
    utf8, _ = _as_utf8(data)
    try:
        return utf8.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableFile("is not UTF-8 text") from None


def _parse_line(raw: bytes, number: int) -> Entry | None:
    if len(raw) > LONGEST_LINE:
        raise UnreadableFile(f"longer than {LONGEST_LINE} bytes")
    if raw.lstrip().startswith(b"#"):
        return None  # a comment may be in any encoding
    if b"\0" in raw:
        raise UnreadableFile("a NUL byte in it")
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableFile("not UTF-8") from None
    line = line.strip().strip(_INVISIBLE).strip()
    if not line or line[0] in "#;":
        return None
    match = _ASSIGNMENT.match(line)
    if match is None:
        raise UnreadableFile("not NAME=value")
    notes = []
    name = match[2]
    if not name.startswith("APP_") and name != name.upper():
        notes.append(f"{name} read as {name.upper()}")
        name = name.upper()
    if match[1]:
        notes.append(f"'{match[1]}' left out")
    text, more = _unquote(match[4].strip())
    return Entry(name, text, number, (*notes, *more))


def _unquote(text: str) -> tuple[str, tuple[str, ...]]:
    """Take quotes, or a comment behind the value, off *text*; say what was done."""
    closing = _QUOTES.get(text[:1])
    if closing is None:
        value = _COMMENT.split(f" {text}", maxsplit=1)[0].strip()
        return value, () if value == text else ("a comment behind it left out",)
    end = _closing_quote(text, closing)
    if end < 0:
        return text[1:], ("its opening quote, which is never closed, taken off",)
    behind = text[end + 1 :].strip()
    if behind and not behind.startswith("#"):
        return text, ("taken as it is: text follows its closing quote",)
    value = text[1:end]
    if closing == '"' and text[0] == '"':
        value = _ESCAPED.sub(r"\1", value)
    return value, ("quotes taken off",)


def _closing_quote(text: str, closing: str) -> int:
    if text[0] != '"':
        return text.find(closing, 1)
    position = 1
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        if text[position] == closing:
            return position
        position += 1
    return -1


def _as_utf8(data: bytes) -> tuple[bytes, str]:
    """Return *data* without its byte-order mark, from UTF-16 to UTF-8 if need be, and a remark."""
    if data.startswith(b"\xef\xbb\xbf"):
        return data[3:], ""
    encoding = ""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif len(data) >= 4:
        # Without a mark: Latin text in UTF-16 has a zero in every second byte.
        sample = data[: 4096 & ~1]
        half = len(sample) // 2
        if sample[1::2].count(0) > 0.8 * half and sample[::2].count(0) == 0:
            encoding = "utf-16-le"
        elif sample[::2].count(0) > 0.8 * half and sample[1::2].count(0) == 0:
            encoding = "utf-16-be"
    if not encoding:
        return data, ""
    text = data.decode(encoding, errors="replace")
    return text.encode("utf-8"), "is written in UTF-16 and was converted; save it as UTF-8"


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:5])
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"line {shown}" if len(numbers) == 1 else f"lines {shown}{more}"
