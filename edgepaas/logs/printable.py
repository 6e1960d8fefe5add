# SPDX-License-Identifier: Apache-2.0
"""What of a text may be printed: no character that moves the cursor, ends a line or turns text.

An escape sequence in a device's name would colour an operator's terminal or overwrite what
stands above it; a direction mark shows ``gpj.exe`` as ``exe.jpg``.
"""

import re

#: Control characters but tab and newline; the line ends of Unicode; marks and embeddings that
#: set a direction (UAX 9); characters without width or shape (blank, tag and annotation ones).
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_LINE_END = re.compile("[\t\n]")


def unprintable(text: str, *, line: bool) -> str:
    """Return the first character of *text* that cannot be printed as ``U+202E``; "" for none.

    *line*: it is one line, so that a tab or a line's end is none of its characters either.
    """
    found = _UNPRINTABLE.search(text) or (_LINE_END.search(text) if line else None)
    return f"U+{ord(found[0]):04X}" if found else ""


def printable_text(text: str) -> str:
    """Return *text*, which may have several lines, with a blank for what cannot be printed."""
    return _UNPRINTABLE.sub(" ", text.replace("\r\n", "\n"))


def printable_line(text: str) -> str:
    """Return *text* as one line, single blanks between its words."""
    return " ".join(printable_text(text).split())


def escaped(text: str) -> str:
    """Return *text* with what cannot be printed written out, e.g. ``\\u202e``."""
    return _UNPRINTABLE.sub(_written, text)


def json_escaped(document: str) -> str:
    """Return a JSON *document* with what cannot be printed in its strings written out."""
    return _UNPRINTABLE.sub(_json_written, document)


def _json_written(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"


def _written(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
