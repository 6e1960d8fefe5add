# SPDX-License-Identifier: Apache-2.0
"""What an HTTP answer means for a notification, unless a receiver has rules of its own."""

import time
from collections.abc import Callable, Mapping

from edgepaas.alerts.channels.answers import Answer

#: Given status, headers by lower-case name, and the beginning of the body.
Judge = Callable[[int, Mapping[str, str], bytes], Answer]

#: Statuses that ask for another attempt although they are the client's fault by their number.
_LATER = (408, 421, 425, 429)
#: No channel waits longer before it tries again, whatever a server asks for.
LONGEST_RETRY_AFTER = 6 * 3600.0
#: Bytes of an answer's body that are read.
MOST_BODY = 300


def judge_status(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Return what an answer means to most receivers; *headers* by lower-case name."""
    words = " ".join(body.decode("utf-8", "replace").split())[:MOST_BODY]
    answered = f"it answered {status}{f': {words}' if words else ''}"
    if 200 <= status < 300:
        return Answer("taken", answered, reached=True)
    if 400 <= status < 500 and status not in _LATER:
        return Answer("refused", answered)
    # After a server's error it cannot be known whether it was read; where a wait is asked for it
    # was not.
    return Answer("later", answered, reached=status not in _LATER, retry_after=retry_after(headers))


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
