# SPDX-License-Identifier: Apache-2.0
"""Handlers and formats: ``timestamp=… level=… logger=… message=… request_id=…``."""

import json
import logging
import os
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from edgepaas.logs.redact import RedactingFilter
from edgepaas.logs.rotating_file import RotatingLogFile
from edgepaas.logs.throttle import ThrottlingFilter

#: The request that the running code serves; ``-`` outside of one.
request_id: ContextVar[str] = ContextVar("request_id", default="-")

#: ``extra=PRINTED``: the line was printed for a person as well, so a terminal need not show it.
PRINTED = {"printed": True}

#: sd-daemon(3): the journal reads a line's priority from this prefix.
_PRIORITY = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def configure_logging(
    *, level: str = "INFO", style: str = "text", file: Path | None = None
) -> None:
    """Send all logging to standard error and, where *file* is given, to a rotating file.

    *style* is ``text`` (key=value) or ``json``. A log file that cannot be opened is
    reported on standard error and not used: a full disk must not keep a box from
    starting. May be called again; the earlier handlers are replaced.
    """
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    throttle = ThrottlingFilter()
    formatter = JSONFormatter() if style == "json" else KeyValueFormatter()
    console = ConsoleHandler(sys.stderr, journal=is_journal(sys.stderr))
    console.setFormatter(formatter)
    console.addFilter(throttle)
    console.addFilter(RedactingFilter())
    if sys.stderr.isatty() and sys.stdout.isatty():
        console.addFilter(lambda record: not getattr(record, "printed", False))
    root.addHandler(console)
    root.setLevel(level)
    # Waitress reports a queue that is a few requests deep as a warning each time.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # SQLAlchemy logs a traceback for each lost connection that it cannot close in order; the
    # loss of the connection is logged in a line by edgepaas.database.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    if file is None:
        return
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        rotating = RotatingLogFile(file)
    except OSError as error:
        root.warning("the log file cannot be written (%s); logging to the console alone", error)
        return
    rotating.setFormatter(formatter)
    rotating.addFilter(throttle)
    rotating.addFilter(RedactingFilter())
    root.addHandler(rotating)


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Standard error, with the journal's priority in front where it is the journal."""

    def __init__(self, stream: TextIO, *, journal: bool) -> None:
        super().__init__(stream)
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._journal:
            return text
        priority = next((p for level, p in _PRIORITY if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class KeyValueFormatter(logging.Formatter):
    """``timestamp=2026-01-01T00:00:00.000Z level=INFO logger=x message="…" request_id=-``."""

    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(f"{key}={_quoted(value)}" for key, value in _fields(record).items())
        return f"{text}\n{record.exc_text}" if record.exc_text else text


class JSONFormatter(logging.Formatter):
    """One JSON object a line, with the same keys and ``exception`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = _fields(record)
        if record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry, ensure_ascii=False)


def as_json(logger: str, message: str) -> str | None:
    """Return *message* as a line of the log; None where that is not JSON."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    formatter = next((f for f in formatters if isinstance(f, JSONFormatter)), None)
    if formatter is None:
        return None
    record = logging.LogRecord(logger, logging.INFO, "", 0, message, None, None)
    return formatter.format(record) if RedactingFilter().filter(record) else None


def _fields(record: logging.LogRecord) -> dict[str, str]:
    return {
        "timestamp": _timestamp(record),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        "request_id": request_id.get(),
    }


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _quoted(value: str) -> str:
    if value and not any(c in ' "=\\' or c < " " for c in value):
        return value
    return json.dumps(value, ensure_ascii=False)


def is_journal(stream: TextIO) -> bool:
    """Whether *stream* goes to the journal, which reads priorities from what is printed."""
    # systemd.exec(5): $JOURNAL_STREAM holds device and inode of the journal's socket.
    try:
        device, inode = os.environ.get("JOURNAL_STREAM", "").split(":")
        status = os.fstat(stream.fileno())
    except (ValueError, OSError):
        return False
    return (int(device), int(inode)) == (status.st_dev, status.st_ino)
