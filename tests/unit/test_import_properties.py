# SPDX-License-Identifier: Apache-2.0
"""Whatever is done to a file: what is stored and what is reported is what the file holds."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from edgepaas.telemetry.times import format_moment
from tests.support.import_runs import KeptReadings, keeping_box, run_import
from tests.support.search import tries
from tests.support.written_tables import (
    SPOILS,
    Style,
    Written,
    at_steps,
    local_lines,
    styles,
    values,
    write_table,
)

START = datetime(2026, 10, 20, 22, 55, 7, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Nights in which clocks go back, and in which they go on, on both halves of the earth.
NIGHTS = [
    ("Europe/Vienna", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("Europe/Vienna", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("Atlantic/Azores", datetime(2026, 10, 25, 1, tzinfo=UTC)),
]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def quietly(file: Path, *options: str, metric: str | None = "value") -> tuple[int, str]:
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = run_import(file, *options, metric=metric)
    return status, said.getvalue()


def stored(box: KeptReadings) -> Counter[tuple[str, str, float]]:
    return Counter(box.stored())


def held(written: Written) -> Counter[tuple[str, str, float]]:
    return Counter((format_moment(moment), metric, value) for moment, metric, value in written.good)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Style, Written]:
    style = draw(styles())
    count = draw(st.integers(1, 40))
    step = draw(st.sampled_from([timedelta(seconds=1), timedelta(minutes=15), timedelta(hours=1)]))
    moments = at_steps(START, step, count)
    if draw(st.booleans()):
        moments.reverse()
    rows = [(moment, [draw(values()) for _ in style.metrics]) for moment in moments]
    spoilt = draw(st.dictionaries(st.integers(0, count - 1), st.sampled_from(SPOILS), max_size=6))
    return style, write_table(style, rows, spoilt)


@given(tables())
@settings(max_examples=tries(60), deadline=None)
def test_each_line_is_stored_or_left_out_and_reported(table: tuple[Style, Written]) -> None:
    style, written = table
    metric = None if len(style.metrics) > 1 else "value"
    with folder() as at, keeping_box() as box:
        file = written.write(at / "readings.csv")
        status, said = quietly(file, *style.options(), metric=metric)
        if written.spoilt or not written.good:
            assert status == 1, said
            assert box.requests == 0
        else:
            assert status == 0, said
        status, said = quietly(file, *style.options(), "--skip-bad", metric=metric)
        assert status == (0 if written.good else 1), said
        assert stored(box) == held(written)
        rest = at / "readings.left-out.csv"
        if written.spoilt and written.good:
            # Rows as they were, below the header, and a line of reasons for each.
            assert rest.read_bytes().decode() == written.header + "".join(written.spoilt.values())
            lines = rest.with_suffix(".txt").read_text().splitlines()
            named = [int(line.split(":")[0].removeprefix("line ")) for line in lines]
            assert named == sorted(written.spoilt)
        else:
            assert not rest.exists()


@given(tables(), st.integers(0, 200))
@settings(max_examples=tries(40), deadline=None)
def test_a_file_that_grows_is_the_same_in_the_end(table: tuple[Style, Written], cut: int) -> None:
    """Cut anywhere, imported, and imported again when it is whole: no half line is a reading."""
    style, written = table
    metric = None if len(style.metrics) > 1 else "value"
    data = written.text.encode()
    with folder() as at, keeping_box() as box:
        file = at / "readings.csv"
        file.write_bytes(data[: max(len(written.header), len(data) - cut)])
        quietly(file, *style.options(), "--skip-bad", metric=metric)
        assert not stored(box) - held(written)
        file.write_bytes(data)
        quietly(file, *style.options(), "--skip-bad", metric=metric)
        assert stored(box) == held(written)


@st.composite
def nights(draw: st.DrawFn) -> tuple[str, list[datetime]]:
    zone, change = draw(st.sampled_from(NIGHTS))
    step = timedelta(minutes=draw(st.sampled_from([1, 5, 10, 15, 30, 60])))
    before = draw(st.integers(2, 20))
    # On whole steps, as loggers write; the night lies somewhere within.
    start = EPOCH + ((change - EPOCH) // step - before - 2 * (timedelta(hours=1) // step)) * step
    moments = at_steps(start, step, before + draw(st.integers(4, 6)) * (timedelta(hours=1) // step))
    return zone, moments


@given(nights(), st.booleans())
@settings(max_examples=tries(40), deadline=None)
def test_a_night_of_summer_time_is_read_whole_in_both_orders(
    night: tuple[str, list[datetime]], newest_first: bool
) -> None:
    zone, moments = night
    rows = moments[::-1] if newest_first else moments
    with folder() as at, keeping_box() as box:
        file = at / "readings.csv"
        file.write_text("\n".join(["timestamp,value", *local_lines(rows, ZoneInfo(zone))]) + "\n")
        status, said = quietly(file, "--timezone", zone)
        assert status == 0, said
    assert box.stored() == [
        (format_moment(moment), "value", (moment - EPOCH) // timedelta(minutes=1))
        for moment in moments
    ]


@given(nights(), st.booleans(), st.data())
@settings(max_examples=tries(60), deadline=None)
def test_no_time_of_such_a_night_becomes_another_one(
    night: tuple[str, list[datetime]], newest_first: bool, data: st.DataObject
) -> None:
    """Rows are missing and out of their order: each is at its moment, or reported."""
    zone, moments = night
    rows = moments[::-1] if newest_first else list(moments)
    for _ in range(data.draw(st.integers(0, 2))):
        at_row = data.draw(st.integers(0, len(rows) - 2))
        one, two = local_lines(rows[at_row : at_row + 2], ZoneInfo(zone))
        if one[:16] != two[:16]:  # two rows of one local time cannot be told from each other
            rows[at_row], rows[at_row + 1] = rows[at_row + 1], rows[at_row]
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(rows) - 1))
        del rows[place : place + data.draw(st.integers(1, 3))]
    with folder() as at, keeping_box() as box:
        file = at / "readings.csv"
        file.write_text("\n".join(["timestamp,value", *local_lines(rows, ZoneInfo(zone))]) + "\n")
        status, said = quietly(file, "--timezone", zone, "--skip-bad")
        wrong = [
            (time, value)
            for time, _, value in box.stored()
            if time != format_moment(EPOCH + timedelta(minutes=value))
        ]
        assert not wrong, said
        rest = at / "readings.left-out.txt"
        left_out = len(rest.read_text().splitlines()) if rest.exists() else 0
        if status == 0:
            assert len(box.by_id) + left_out == len(rows)
