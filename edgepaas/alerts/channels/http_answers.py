# SPDX-License-Identifier: Apache-2.0
"""What an HTTP answer means for a notification, unless a receiver has rules of its own.

A notification is delivered once the receiver says so. A status of 2xx with a body that reports
a failure does not, nor does a web page: it is a portal's or a proxy's. A status that is about
the address, the login or the rate is a fault of the channel and not of the message.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from edgepaas.alerts.channels.answers import Answer
from edgepaas.logs.foreign import LONGEST

#: Given status, headers by lower-case name, and the beginning of the body.
Judge = Callable[[int, Mapping[str, str], bytes], Answer]

#: Statuses that are about what was sent (RFC 9110, 15.5.1, 15.5.14, 15.5.16 and 15.5.21).
_OF_THE_MESSAGE = (400, 413, 415, 422)
#: A 400 of something that has not read the message: a server that is spoken to in plain text on
#: its port for TLS (nginx, Go).
_NOT_READ = re.compile(r"\bHTTP request\b.*\bHTTPS\b", re.I | re.S)
#: Statuses that ask for another attempt although they are the client's fault by their number.
_LATER = (408, 421, 425, 429)
#: No channel waits longer before it tries again, whatever a server asks for.
LONGEST_RETRY_AFTER = 6 * 3600.0
#: Bytes of an answer's body that are read: a report of a failure is JSON of some lines.
MOST_BODY = 4096

_PAGE = re.compile(r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
#: How receivers report in plain text that they did not deliver, Teams' connectors first.
_REPORT = re.compile(
    r"\A\W*(?:errors?|fail(?:ed|ure)?|invalid|unauthori[sz]ed|forbidden|denied|rejected|not found"
    r"|no such|too many requests|rate limit\w*)\b"
    r"|delivery failed|failed with error|failed to (?:deliver|post|send)|returned HTTP error",
    re.I,
)
_FAILED_WORDS = ("error", "err", "fail", "failed", "failure", "invalid", "rejected", "denied")


def judge_status(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Return what an answer means to most receivers; *headers* by lower-case name."""
    return judge_by(status, headers, body, reports_failure)


def judge_by(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    failed: Callable[[str, Any], bool],
) -> Answer:
    """Return what an answer means; of a status of 2xx ``failed(text, document)`` decides.

    *document* is the body as JSON, None where it is none.
    """
    text = body.decode("utf-8", "replace")
    page = bool(_PAGE.match(text))
    shown = "a web page" if page else " ".join(text.split())[: 2 * LONGEST]
    answered = f"it answered {status}{f': {shown}' if shown else ''}"
    if 200 <= status < 300:
        if page:
            return Answer("later", f"{answered}, which no receiver of alerts does", reached=True)
        if failed(text, _document(text)):
            return Answer("later", answered, retry_after=retry_after(headers))
        return Answer("taken", answered, reached=True)
    # A page is a proxy's or a portal's; for its size a proxy refuses the message itself.
    unread = (page and status != 413) or _NOT_READ.search(text)
    if status in _OF_THE_MESSAGE and not unread:
        return Answer("refused", answered)
    if status in _LATER or not 400 <= status < 500:
        # After a server's error it cannot be known whether it was read; where a wait is asked for
        # it was not.
        wait = retry_after(headers)
        return Answer("later", answered, reached=status not in _LATER, retry_after=wait)
    return Answer("later", answered, down=True)


def reports_failure(text: str, document: Any) -> bool:
    """Whether the body of an answer says, in one of the usual ways, that nothing was delivered."""
    if isinstance(document, list):
        return any(reports_failure("", item) for item in document)
    if not isinstance(document, dict):
        return document is False or (document is None and bool(_REPORT.search(text)))
    fields = {str(name).lower(): value for name, value in document.items()}
    return (
        any(fields.get(name, True) is False for name in ("ok", "success", "accepted", "delivered"))
        or any(fields.get(name) for name in ("error", "errors", "errcode", "error_code", "errno"))
        or any(_is_failure(fields.get(name)) for name in ("status", "result", "code", "http"))
    )


def _is_failure(value: Any) -> bool:
    """Whether a word or a number is one that stands for a failure."""
    if isinstance(value, str) and not value.isdecimal():
        return value.lower().partition(" ")[0] in _FAILED_WORDS
    number = int(value[:9]) if isinstance(value, str) else value
    return isinstance(number, int) and not isinstance(number, bool) and not 0 <= number < 400


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of ``Retry-After`` (RFC 9110, 10.2.3), 0.0 without one."""
    from email.utils import parsedate_to_datetime  # loads much, and few servers send a date

    text = headers.get("retry-after", "").strip()
    if text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    try:
        # By the server's own clock: this box's may never have been set.
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        now = time.time()
    return max(0.0, min(until - now, LONGEST_RETRY_AFTER))
