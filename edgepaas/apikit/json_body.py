# SPDX-License-Identifier: Apache-2.0
"""Reading a request's body as JSON or NDJSON, strictly.

Python's json takes what RFC 8259 does not know (NaN, Infinity, a repeated name) and
raises three different exceptions for the rest; databases refuse NUL and lone
surrogates in text only when a row is written. All of it is refused here, as 4xx.
"""

import codecs
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from flask import request

from edgepaas.apikit.problems import Detail, Problem, invalid, printable
from edgepaas.apikit.werkzeug_adapter import ClientDisconnected

JSON = "application/json"
NDJSON = "application/x-ndjson"

#: Values that one body may hold, names of objects counted with theirs: a value takes up to
#: 72 bytes of memory, and two of the body.
MOST_VALUES = 100_000
#: Names in one object.
MOST_NAMES = 1000
#: Characters of one text, and of a line of NDJSON.
LONGEST_TEXT = 1024 * 1024
#: Bytes that are read at once.
_PIECE = 64 * 1024
#: Bodies that are shorter cannot take much memory, whatever is in them.
_SMALL = 64 * 1024

#: Deeper than any document that this API takes; bounds every recursive walk after it.
DEEPEST = 32

#: A text, or what stands before a value.
_MARK = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<mark>[,\[{])', re.DOTALL)
_BAD_TEXT = re.compile(r"[\x00\ud800-\udfff]")
#: What each escape of such a character begins with; most that clients write are other ones.
_SUSPECT_ESCAPES = ("\\u0000", "\\ud", "\\uD")


def read_json(*, also: Sequence[str] = ()) -> Any:
    """Return the request's JSON body; raises Problem 400, 413, 415 or 422.

    *also* are further media types that the caller understands, for the 415's message.
    """
    media_type = request.mimetype
    if media_type != JSON and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise unsupported(JSON, *also)
    return parse_json(_read_text())


def read_ndjson(*, most: int) -> list[Any]:
    """Return the values of an ``application/x-ndjson`` body, one a line; empty lines are skipped.

    A wrong line is Problem 400 naming its number, from 1; more than *most* values are 413.
    """
    values: list[Any] = []
    for number, line in enumerate(_lines(), start=1):
        if not line or line.isspace():
            continue
        if len(values) == most:
            raise Problem(413, f"The body holds more than {most} lines; send them in parts.")
        try:
            values.append(parse_json(line, line=number))
        except Problem as problem:
            if problem.status != 422:
                raise
            message = f"line {number} of the body: {problem.message}"
            details: list[Detail] = [
                {"path": f"[{len(values)}].{entry['path']}", "message": entry["message"]}
                for entry in problem.details
            ]
            raise Problem(problem.status, message, error=problem.error, details=details) from None
    return values


def is_ndjson() -> bool:
    """Tell whether the request says that its body is NDJSON."""
    return request.mimetype in (NDJSON, "application/ndjson", "application/jsonl")


def unsupported(*allowed: str) -> Problem:
    """Return the 415 that names what is understood (RFC 9110, 15.5.16)."""
    given = f", not {printable(request.mimetype)}" if request.mimetype else "; it is missing"
    return Problem(
        415,
        f"The body's Content-Type has to be {' or '.join(allowed)}{given}.",
        headers={"Accept-Post": ", ".join(allowed)} if request.method == "POST" else None,
    )


def parse_json(text: str, *, line: int = 0) -> Any:
    """Return *text* as a value; raises Problem 400 for what is no JSON, 422 for bad text in it.

    *line* is the body's line that *text* is, where it is not the whole of it.
    """
    place = f"line {line}: " if line else ""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        raise _not_json(f"{error.msg} at {where}") from None
    except RecursionError:
        raise _not_json(f"{place}it is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits, and our own hooks
        message = str(error)
        if "integer string conversion" in message:
            message = "a number has too many digits"
        raise _not_json(f"{place}{message}") from None
    if text.count("[") + text.count("{") > DEEPEST and _is_too_deep(value):
        raise _not_json(f"{place}it is nested more than {DEEPEST} levels deep")
    # Raw control characters are refused by the parser and lone surrogates by the
    # decoder: only an escape can bring one in, and most bodies have none.
    if "\\u" in text and any(one in text for one in _SUSPECT_ESCAPES):
        _check_texts(value)
    return value


def is_sound_text(text: str) -> bool:
    """Tell whether both databases can store *text*: no NUL, no lone surrogate."""
    return _BAD_TEXT.search(text) is None


def _pieces() -> Iterator[str]:
    """Give the body as text, in pieces; raises Problem, also for what is too wide for memory.

    It is not kept elsewhere: of a long body there is to be one copy.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(
            415,
            f"The body has Content-Encoding {printable(encoding)}; only identity is understood.",
            headers={"Accept-Encoding": "identity"},
        )
    charset = request.mimetype_params.get("charset", "utf-8")
    if charset.strip().lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise Problem(415, f"The body has the charset {printable(charset)}; JSON is UTF-8.")
    # RFC 8259, 8.1: a byte-order mark may be ignored.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    most = request.max_content_length or sys.maxsize
    length = widest = read = 0
    while True:
        try:
            data = request.stream.read(_PIECE)
        except ClientDisconnected:
            raise Problem(400, "The body is shorter than its Content-Length.") from None
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = read - waiting + error.start
            raise _not_json(f"byte {at} of the body is no UTF-8") from None
        read += len(data)
        length += len(text)
        widest = max(widest, _width(text))
        if length > _SMALL and length * widest > most:
            # Python keeps each character of a text in as many bytes as its widest needs.
            raise Problem(
                413,
                f"The body's characters take {widest} bytes each in memory;"
                f" {most // widest:,} of them are the most. Send it in parts.",
            )
        yield text
        if not data:
            return


def _width(text: str) -> int:
    if text.isascii():
        return 1
    widest = max(text)
    return 1 if widest < "\u0100" else 2 if widest < "\U00010000" else 4


def _read_text() -> str:
    # A local text grows in place; join() and StringIO.getvalue() have the text there twice.
    text = ""
    marks = 0
    for piece in _pieces():
        text += piece
        marks += piece.count(",") + piece.count("[") + piece.count("{")
        if marks > MOST_VALUES:
            # Some may stand in texts, which are looked at only now.
            marks = sum(1 for match in _MARK.finditer(text) if match.lastgroup)
            if marks > MOST_VALUES:
                message = f"The body holds more than {MOST_VALUES:,} values; send it in parts."
                raise Problem(413, message)
    _check_texts_length(text)
    return text


def _lines() -> Iterator[str]:
    """Give the lines of the body, one at a time."""
    begun = ""
    for piece in _pieces():
        *lines, rest = piece.split("\n")
        if lines:
            yield begun + lines[0]
            yield from lines[1:]
            begun = ""
        begun += rest
        if len(begun) > LONGEST_TEXT:
            raise Problem(413, f"A line of the body has more than {LONGEST_TEXT:,} characters.")
    yield begun


def _check_texts_length(text: str) -> None:
    """Refuse a text that is too long: it would be taken from *text*, and be there twice."""
    at = 0
    while at + LONGEST_TEXT < len(text):
        at = text.rfind('"', at, at + LONGEST_TEXT + 1) + 1
        if not at:
            message = f"A text in the body has more than {LONGEST_TEXT:,} characters."
            raise Problem(413, message)


def _not_json(why: str) -> Problem:
    return Problem(400, f"The body is not valid JSON: {why}.", error="invalid_json")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_NAMES:
        raise ValueError(f"an object has more than {MOST_NAMES:,} names")
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:80]!r} occurs twice in one object")
            seen.add(name)
    return found


def _is_too_deep(value: Any) -> bool:
    """Whether *value* is nested deeper than DEEPEST; level by level, since many are wide."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST + 1):
        if not level:
            return False
        level = [
            item
            for one in level
            for item in (one.values() if type(one) is dict else one)
            if type(item) is dict or type(item) is list
        ]
    return bool(level)


def _check_texts(value: Any) -> None:
    details: list[Detail] = [
        {"path": path, "message": "NUL and lone surrogates cannot be stored."}
        for path, text in _texts(value, "")
        if not is_sound_text(text)
    ]
    if details:
        raise invalid(details)


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each text in *value*, keys included, with its path; the depth is bounded already."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            below = f"{path}.{printable(key)}" if path else printable(key)
            yield below, key
            yield from _texts(item, below)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]")


# Made once: json.loads() builds a decoder for each call that is given a hook.
_DECODER = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_distinct
)
