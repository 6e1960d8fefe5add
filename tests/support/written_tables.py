# SPDX-License-Identifier: Apache-2.0
"""Tables of readings written as CSV in many ways, spoilt, and known line by line.

What each line of a file holds is noted as it is written, and read back by nothing of ours.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from hypothesis import strategies as st

#: How a moment is written; the name is the option that says it where the file leaves it open.
TIME_FORMS = {
    "iso": "%Y-%m-%dT%H:%M:%SZ",
    "offset": "%Y-%m-%d %H:%M:%S+0000",
    "slashes": "%Y/%m/%d %H:%M:%S",
    "day-first": "%d/%m/%Y %H:%M:%S",
    "month-first": "%m/%d/%Y %I:%M:%S %p",
    "points": "%d.%m.%Y %H:%M:%S",
    "%d%b%y %H:%M:%S": "%d%b%y %H:%M:%S",
}
#: What is done to a line, by name; each makes it another thing than a reading.
SPOILS = ("open quote", "cell more", "cell fewer", "no number", "no time", "NUL", "cut", "quoted x")


@dataclass(frozen=True)
class Style:
    """How a table is written."""

    delimiter: str
    decimal: str
    line_end: str
    form: str
    metrics: tuple[str, ...]
    noted: bool
    quoted: bool
    empty_after: int

    def options(self) -> list[str]:
        """Return the options without which such a file may be one or another."""
        form = self.form if self.form.startswith("%") or "first" in self.form else ""
        return [
            *(["--wide"] if len(self.metrics) > 1 else []),
            *(["--time-format", form] if form else []),
            "--decimal",
            "comma" if self.decimal == "," else "point",
            *[part for name in self.metrics for part in ("--value-column", name)],
        ]


@st.composite
def styles(draw: st.DrawFn) -> Style:
    """Ways to write a table; a decimal comma is in quotes where the comma parts cells."""
    delimiter = draw(st.sampled_from(",;\t|"))
    decimal = draw(st.sampled_from(".,"))
    return Style(
        delimiter,
        decimal,
        draw(st.sampled_from(["\n", "\r\n"])),
        draw(st.sampled_from(sorted(TIME_FORMS))),
        draw(st.sampled_from([("value",), ("flow", "return", "outside")])),
        draw(st.booleans()),
        draw(st.booleans()) or (delimiter == decimal),
        draw(st.integers(0, 12)),
    )


@dataclass
class Written:
    """A file: its text, the readings of its good lines, and the numbers of its spoilt ones."""

    text: str = ""
    good: list[tuple[datetime, str, float]] = field(default_factory=list)
    spoilt: dict[int, str] = field(default_factory=dict)
    header: str = ""

    def write(self, path: Path) -> Path:
        """Write it to *path*; NUL and all."""
        path.write_bytes(self.text.encode())
        return path


def write_table(
    style: Style, rows: list[tuple[datetime, list[float]]], spoils: dict[int, str]
) -> Written:
    """Return *rows* as a file; *spoils* is what is done to which of them."""
    names = ["timestamp", *style.metrics, *(["note"] if style.noted else [])]
    header = style.delimiter.join(names) + style.line_end
    written, line = Written(header, header=header), 1
    for place, (moment, values) in enumerate(rows):
        line += 1
        time = moment.strftime(TIME_FORMS[style.form])
        cells = [time, *(repr(value).replace(".", style.decimal) for value in values)]
        if style.noted:
            cells.append("5' pipe, cold" if style.quoted else "ok")
        if style.quoted:
            cells = [f'"{cell}"' for cell in cells]
        text = style.delimiter.join(cells)
        how = spoils.get(place)
        if how is None:
            pairs = zip(style.metrics, values, strict=True)
            written.good += [(moment, metric, value) for metric, value in pairs]
        else:
            text = _spoil(text, style, how)
            written.spoilt[line] = text + style.line_end
        written.text += text + style.line_end
        if style.empty_after and place % style.empty_after == 0:
            line += 1
            written.text += style.line_end
    return written


def _spoil(text: str, style: Style, how: str) -> str:
    delimiter = style.delimiter
    first, _, rest = text.partition(delimiter)
    bare = rest.replace('"', "")
    spoilt = {
        "open quote": f'"{first.strip(chr(34))}{delimiter}{bare}',
        "cell more": f"{text}{delimiter}7",
        "cell fewer": first,
        "no number": text.replace(rest.split(delimiter)[0], "warm", 1),
        "no time": f"timestamp{delimiter}{rest}",
        "NUL": f"{text[:-2]}\0{text[-2:]}",
        "cut": text[: len(first) // 2],
        "quoted x": f'"x" y{delimiter}{rest}',
    }
    return spoilt[how]


def values() -> st.SearchStrategy[float]:
    """Values that a meter writes."""
    return st.floats(-1e6, 1e6).filter(lambda value: "e" not in repr(value)).map(lambda x: x + 0.0)


def at_steps(start: datetime, step: timedelta, count: int) -> list[datetime]:
    """Return *count* moments from *start*, *step* apart."""
    return [start + step * place for place in range(count)]


def local_lines(moments: list[datetime], zone: tzinfo) -> list[str]:
    """Return a line for each moment: its time in *zone*, and its minute since 1970 as the value."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        f"{moment.astimezone(zone):%Y-%m-%d %H:%M},{(moment - epoch) // timedelta(minutes=1)}"
        for moment in moments
    ]
