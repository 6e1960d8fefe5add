# SPDX-License-Identifier: Apache-2.0
"""One cause does not fill the log, whatever a client makes of it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.logs import configure_logging
from edgepaas.logs.throttle import MOST_LINES, MOST_TRACEBACKS, WINDOW, ThrottlingFilter


class Shown(logging.Handler):
    """What passed, and a clock that is set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lines: list[str] = []
        self.traces = 0
        self.addFilter(ThrottlingFilter(lambda: self.now))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.traces += record.exc_info is not None


@pytest.fixture
def shown() -> Iterator[Shown]:
    handler, logger = Shown(), logging.getLogger("edgepaas.test_throttle")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)


LOGGER = logging.getLogger("edgepaas.test_throttle")


def _fail(path: str) -> None:
    try:
        int(path)
    except ValueError as error:
        LOGGER.error("GET %s failed", path, exc_info=error)


def test_a_cause_that_repeats_itself_is_counted_and_not_written(shown: Shown) -> None:
    """The values in the line are the client's choice, and make no other cause."""
    for number in range(1000):
        _fail(f"/x{number}")
    assert len(shown.lines) == MOST_LINES
    assert shown.traces == MOST_TRACEBACKS
    assert shown.lines[-1].endswith("failed: ValueError; its traceback stands above")
    shown.now = WINDOW
    _fail("/again")
    assert shown.lines[-1].endswith(
        f"({1000 - MOST_LINES:,} lines like this one were left out before it)"
    )
    assert shown.traces == MOST_TRACEBACKS + 1


def test_another_cause_is_written_all_the_same(shown: Shown) -> None:
    for _ in range(1000):
        _fail("/x")
    LOGGER.warning("the disk is full")
    try:
        raise KeyError("x")
    except KeyError as error:
        LOGGER.error("GET %s failed", "/x", exc_info=error)
    assert "the disk is full" in shown.lines
    assert len(shown.lines) == MOST_LINES + 2


def test_what_an_operator_asked_for_is_written_whole(shown: Shown) -> None:
    for number in range(1000):
        LOGGER.debug("GET /%d", number)
    assert len(shown.lines) == 1000


def test_thirty_thousand_errors_of_a_client_leave_the_log_as_it_was(tmp_path: Path) -> None:
    """The file is not even begun anew; both handlers share one decision."""
    file = tmp_path / "edgepaas.log"
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    try:
        configure_logging(file=file)
        logging.getLogger("edgepaas.web").warning("something that matters")
        for number in range(30_000):
            logging.getLogger("edgepaas.web").error("GET /%d failed", number)
        assert "something that matters" in file.read_text(encoding="utf-8")
        assert [one.name for one in tmp_path.iterdir()] == ["edgepaas.log"]
        assert file.read_text(encoding="utf-8").count("failed") == MOST_LINES
    finally:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
            if handler not in kept:
                handler.close()
        for handler in kept:
            root.addHandler(handler)
        root.setLevel(level)
