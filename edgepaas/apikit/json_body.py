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
from typing import Any

from flask import request

from edgepaas.apikit.problems import Detail, Problem, invalid, printable
from edgepaas.apikit.werkzeug_adapter import ClientDisconnected, HTTPException

JSON = "application/json"
NDJSON = "application/x-ndjson"

#: Deeper than any document that this API takes; bounds every recursive walk after it.
DEEPEST = 32

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
    text = _read_text()
    values: list[Any] = []
    for number, line in enumerate(text.split("\n"), start=1):
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


def _read_text() -> str:
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
        data = request.get_data(cache=True)
    except ClientDisconnected:
        raise Problem(400, "The body is shorter than its Content-Length.") from None
    except HTTPException:
        raise  # 413 of the size limit: the error module knows it
    try:
        # RFC 8259, 8.1: a byte-order mark may be ignored.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_json(f"byte {error.start} of the body is no UTF-8") from None


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
