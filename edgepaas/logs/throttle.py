# SPDX-License-Identifier: Apache-2.0
"""So many lines a minute for each cause: what repeats itself does not rotate the rest away.

A cause is a place in the code and what it logs, not the values in the line, which a client
may choose, and for an error its type and where it was raised.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Lines of one cause in each WINDOW, and those of them that show a traceback.
MOST_LINES = 30
MOST_TRACEBACKS = 3
#: Seconds.
WINDOW = 60.0
#: Causes that are remembered; beyond them the oldest is forgotten.
MOST_CAUSES = 500
#: Alerts have a window of their own, and the log may be the one place that has them.
_EXEMPT = "edgepaas.alerts"


@dataclass
class _Cause:
    began: float
    lines: int = 0
    left_out: int = 0


class ThrottlingFilter(logging.Filter):
    """Lets a record pass, or counts it; the next one of its cause says how many were left out.

    One instance serves all handlers. Lines below INFO are an operator's wish, and all pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._causes: dict[tuple[object, ...], _Cause] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide about *record*, once for all handlers."""
        if record.levelno < logging.INFO or record.name.startswith(_EXEMPT):
            return True
        passes = getattr(record, "passes", None)
        if passes is None:
            with self._lock:
                passes = record.passes = self._passes(record)
        return bool(passes)

    def _passes(self, record: logging.LogRecord) -> bool:
        key, now = _cause_of(record), self._clock()
        cause = self._causes.get(key)
        left_out = 0
        if cause is None or now - cause.began >= WINDOW:
            left_out = 0 if cause is None else cause.left_out
            self._causes.pop(key, None)
            if len(self._causes) >= MOST_CAUSES:
                del self._causes[next(iter(self._causes))]
            cause = self._causes[key] = _Cause(now)
        if cause.lines >= MOST_LINES:
            cause.left_out += 1
            return False
        cause.lines += 1
        if record.exc_info and cause.lines > MOST_TRACEBACKS:
            error = record.exc_info[1]
            _append(record, f": {type(error).__name__}; its traceback stands above")
            record.exc_info = None
        if left_out:
            _append(record, f" ({left_out:,} lines like this one were left out before it)")
        return True


def _cause_of(record: logging.LogRecord) -> tuple[object, ...]:
    place = (record.name, record.levelno, record.pathname, record.lineno)
    if not record.exc_info or record.exc_info[1] is None:
        return place
    trace = record.exc_info[1].__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised = None if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return (*place, type(record.exc_info[1]), raised)


def _append(record: logging.LogRecord, text: str) -> None:
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # a caller's format and arguments do not fit
        message = f"{record.msg} {record.args}"
    record.msg, record.args = message + text, None
