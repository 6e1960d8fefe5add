# SPDX-License-Identifier: Apache-2.0
"""The lines of a text file with their numbers, in the encoding that it was written in."""

import codecs
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.reader.csv_file import CsvFile

#: Characters of a line; a file of something else may be one endless line.
LONGEST_LINE = 1 << 20
#: How far the next quote is looked for.
_LINES_AHEAD = 100_000
_CHUNK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file's bytes become text; *guessed*: its bytes prove what it is not, no more."""

    name: str
    guessed: bool = False

    @property
    def errors(self) -> str:
        """How bytes that are no text are read: as lone surrogates, where that can be undone."""
        return "replace" if self.name.replace("_", "-").startswith("utf-16") else "surrogateescape"


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its number (1 is the file's first), its text, and whether its line end is there."""

    number: int
    text: str
    ended: bool
    #: As the file has it, with its line end.
    raw: str


def detect_encoding(csv: CsvFile) -> Encoding:
    """Return what *csv* is written in: by its byte-order mark, as UTF-8, else as Windows-1252.

    A file with more letters of UTF-8 than bytes that are none is a damaged one, whose rows
    are judged singly. Raises OSError.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    letters, strange = 0, set[int]()
    wrong = 0
    with csv.bytes() as file:
        start = file.read(_CHUNK)
        for mark, name in _MARKS:
            if start.startswith(mark):
                return Encoding(name)
        while start:
            if not start.isascii():
                found = [
                    ord(character) for character in decoder.decode(start) if character > "\x7f"
                ]
                bad = [code - 0xDC00 for code in found if 0xDC80 <= code <= 0xDCFF]
                letters, wrong = letters + len(found) - len(bad), wrong + len(bad)
                strange.update(bad)
            else:
                decoder.decode(start)
            start = file.read(_CHUNK)
    if wrong <= letters:
        return Encoding("utf-8")
    try:
        bytes(sorted(strange)).decode("cp1252")
    except UnicodeDecodeError:
        return Encoding("utf-8")
    return Encoding("cp1252", guessed=True)


def is_damaged(text: str) -> bool:
    """Tell whether *text* holds what no writer of text means: bytes of no letter, or NUL."""
    if text.isascii():
        return "\0" in text
    return "\0" in text or any("\udc80" <= one <= "\udcff" or one == "�" for one in text)


class LineReader:
    """Reads *csv* line by line; ``ahead`` looks at what comes without reading past it."""

    def __init__(self, csv: CsvFile, encoding: Encoding, line_end: str) -> None:
        self._csv, self._encoding, self._line_end = csv, encoding, line_end
        self._number = 0
        self._waiting: deque[Line] = deque()
        self._file: TextIO

    def __enter__(self) -> "LineReader":
        """Open the file; raises OSError, LookupError."""
        self._file = self._csv.text(self._encoding.name, self._encoding.errors, self._line_end)
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self._file.close()

    def __iter__(self) -> Iterator[Line]:
        """Yield each line once. Raises OSError, and ImportFailed for one that does not end."""
        while line := self.next_line():
            yield line

    def next_line(self) -> Line | None:
        """Return the next line; None at the end."""
        return self._waiting.popleft() if self._waiting else self._read()

    def ahead(self) -> Iterator[Line]:
        """Yield the lines that come, without taking them away, up to a limit."""
        at = 0
        while at < _LINES_AHEAD:
            if at == len(self._waiting):
                line = self._read()
                if line is None:
                    return
                self._waiting.append(line)
            yield self._waiting[at]
            at += 1

    def skip(self, lines: int) -> None:
        """Take away the next *lines* lines."""
        for _ in range(lines):
            self.next_line()

    def _read(self) -> Line | None:
        raw = self._file.readline(LONGEST_LINE)
        if not raw:
            return None
        self._number += 1
        ended = raw.endswith(self._line_end)
        if not ended and len(raw) == LONGEST_LINE:
            raise ImportFailed(
                f"{self._csv.name}, line {self._number}: longer than {LONGEST_LINE:,} characters; "
                "this is no CSV text file"
            )
        # Windows programs that write twice leave several carriage returns.
        text = raw.removesuffix(self._line_end).rstrip("\r") if ended else raw
        if self._number == 1:
            text = text.lstrip("\ufeff")
        return Line(self._number, text, ended, raw)


def detect_line_end(csv: CsvFile, encoding: Encoding) -> str:
    """Return the character that ends the file's lines; raises OSError, LookupError."""
    with csv.text(encoding.name, encoding.errors, "") as file:
        start = file.read(LONGEST_LINE)
    return "\r" if "\r" in start and "\n" not in start else "\n"
