# SPDX-License-Identifier: Apache-2.0
"""Reading a request's body as JSON or NDJSON, strictly.

Python's json takes what RFC 8259 does not know (NaN, Infinity, a repeated name) and
raises three different exceptions for the rest; databases refuse NUL and lone
surrogates in text only when a row is written. All of it is refused here, as 4xx.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from flask import request

from edgepaas.apikit.problems import Detail, Problem, invalid, printable
from edgepaas.apikit.werkzeug_adapter import ClientDisconnected, HTTPException

JSON = "application/json"
NDJSON = "application/x-ndjson"

#: Values that one body may hold, names of objects counted with theirs: a value takes up to
#: 72 bytes of memory, and two of the body.
MOST_VALUES = 100_000
#: Names in one object.
MOST_NAMES = 1000
#: Bodies that are shorter cannot take much memory, whatever is in them.
_SMALL = 64 * 1024

#: Deeper than any document that this API takes; bounds every recursive walk after it.
DEEPEST = 32

_LINE = re.compile(rb"[^\s][^\n]*")
#: A text, or what stands before a value.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<mark>[,\[{])', re.DOTALL)
#: First bytes of characters in UTF-8: beyond U+FFFF, and beyond U+00FF.
_WIDE = re.compile(rb"[\xf0-\xff]")
_BEYOND_LATIN = re.compile(rb"[\xc4-\xff]")
#: The bytes of a character that are not its first.
_CONTINUATIONS = tuple(bytes((number,)) for number in range(0x80, 0xC0))
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
    return parse_json(_decoded(_read_data()))


def read_ndjson(*, most: int) -> list[Any]:
    """Return the values of an ``application/x-ndjson`` body, one a line; empty lines are skipped.

    A wrong line is Problem 400 naming its number, from 1; more than *most* values are 413.
    """
    data = _read_data()
    values: list[Any] = []
    number, counted = 1, 0
    for match in _LINE.finditer(data):
        number += data.count(b"\n", counted, match.start())
        counted = match.start()
        if len(values) == most:
            raise Problem(413, f"The body holds more than {most} lines; send them in parts.")
        try:
            values.append(parse_json(_decoded(match[0], counted), line=number))
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


def _read_data() -> bytes:
    """Return the body, which is not kept elsewhere: of a long one there is to be one copy."""
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
    try:
        data = request.get_data(cache=False)
    except ClientDisconnected:
        raise Problem(400, "The body is shorter than its Content-Length.") from None
    except HTTPException:
        raise  # 413 of the size limit: the error module knows it
    if len(data) > _SMALL:
        _check_extent(data, request.max_content_length or len(data))
    return data


def _check_extent(data: bytes, most_bytes: int) -> None:
    """Refuse what would take many times the memory of its bytes, before any of it is taken."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") >= MOST_VALUES:
        # Some may stand in texts, which are looked at only now.
        marks = (match for match in _MARK.finditer(data) if match.lastgroup)
        if next(islice(marks, MOST_VALUES, None), None) is not None:
            raise Problem(413, f"The body holds more than {MOST_VALUES:,} values; send parts.")
    # Python keeps each character of a text in as many bytes as the widest of them needs.
    width = 4 if _WIDE.search(data) else 2 if _BEYOND_LATIN.search(data) else 1
    if width > 1 and len(data) * width > most_bytes:
        characters = len(data) - sum(map(data.count, _CONTINUATIONS))
        if characters * width > most_bytes:
            raise Problem(
                413,
                f"The body has {characters:,} characters, which take {width} bytes each in memory;"
                f" {most_bytes // width:,} are the most. Send it in parts.",
            )


def _decoded(data: bytes, before: int = 0) -> str:
    """Return *data* as text; *before* it stand so many bytes of the body."""
    try:
        # RFC 8259, 8.1: a byte-order mark may be ignored.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_json(f"byte {before + error.start} of the body is no UTF-8") from None


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
