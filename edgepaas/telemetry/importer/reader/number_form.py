# SPDX-License-Identifier: Apache-2.0
"""How a file writes numbers: its decimal mark, told from thousands or asked for."""

import math
import re
from dataclasses import dataclass

#: Blanks that stand between thousands: the ordinary one, and those that do not break.
_BLANKS = " \u00a0\u202f"
_MARKED = re.compile(rf"[+-]?\d{{1,3}}(?:[{_BLANKS}'\u2019_]\d{{3}})+(?:[.,]\d*)?", re.ASCII)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,]\d{3})+", re.ASCII)


@dataclass(frozen=True)
class NumberForm:
    """A decimal mark and a mark between thousands (empty: none), both as the file has them."""

    decimal: str = "."
    thousands: str = ""

    def pattern(self) -> re.Pattern[str]:
        """Return what a number of this form matches."""
        mark = re.escape(self.decimal)
        whole = r"\d+"
        if self.thousands:
            between = f"[{_BLANKS}]" if self.thousands == " " else re.escape(self.thousands)
            whole = rf"(?:\d{{1,3}}(?:{between}\d{{3}})+|\d+)"
        return re.compile(rf"[+-]?(?:{whole}(?:{mark}\d*)?|{mark}\d+)(?:[eE][+-]?\d+)?", re.ASCII)


class NumberParser:
    """Reads numbers of one form, and nothing that only float() would take."""

    def __init__(self, form: NumberForm) -> None:
        self.form = form
        self._pattern = form.pattern()
        between = _BLANKS if form.thousands == " " else form.thousands
        self._plain = str.maketrans({**dict.fromkeys(between), form.decimal: "."})

    def __call__(self, text: str) -> float:
        """Return the number that *text* is; raises ValueError, which says what is wrong."""
        if not self._pattern.fullmatch(text):
            raise ValueError(self._problem(text))
        # -0.0 is 0.0, as it is for the box.
        number = float(text.translate(self._plain)) + 0.0
        if not math.isfinite(number):
            raise ValueError("not a finite number")
        return number

    def _problem(self, text: str) -> str:
        for mark in ",.":
            if mark in text and mark not in (self.form.decimal, self.form.thousands):
                other = NumberForm(mark, self.form.decimal if self.form.decimal in text else "")
                grouped = NumberForm(self.form.decimal, mark)
                if other.pattern().fullmatch(text) or grouped.pattern().fullmatch(text):
                    return f"has a {mark!r}, where the file's decimal mark is {self.form.decimal!r}"
        if not text:
            return "empty: --no-value '' passes over such cells"
        if _MARKED.fullmatch(text) and not self.form.thousands:
            return "has marks between digits: say what they are with --thousands"
        return "not a finite number"


class NumberSurvey:
    """Counts how numbers are written, and says which form they have."""

    def __init__(self, thousands: str = "") -> None:
        self._without = str.maketrans("", "", _BLANKS if thousands == " " else thousands)
        self._sure = {".": 0, ",": 0}
        #: Numbers such as 1.234, which are one or another by what the mark means.
        self._open = {".": 0, ",": 0}
        self._examples = {".": "", ",": ""}

    def see(self, text: str) -> None:
        """Count *text*, a cell of a column of values."""
        text = text.translate(self._without)
        marks = [mark for mark in text if mark in ".,"]
        if not marks:
            return
        if _GROUPED.fullmatch(text) and len(set(marks)) == 1:
            # Two marks of one kind stand between thousands: the other one is for decimals.
            if len(marks) > 1:
                self._sure["." if marks[0] == "," else ","] += 1
            else:
                self._open[marks[0]] += 1
                self._examples[marks[0]] = text
        elif marks.count(marks[-1]) == 1 and (
            NumberForm(marks[-1], marks[0] if len(marks) > 1 else "").pattern().fullmatch(text)
        ):
            self._sure[marks[-1]] += 1

    def decimal_mark(self, delimiter: str) -> str:
        """Return the decimal mark; raises ValueError where the numbers may be one or another."""
        if any(self._sure.values()):
            return max(self._sure, key=lambda mark: self._sure[mark])
        # Three digits after each point, which where commas part cells is no mark of thousands.
        points = self._open["."] and delimiter != ","
        if self._open[","] or points:
            example = self._examples["," if self._open[","] else "."]
            raise ValueError(
                f"a value such as {example!r} has either three decimals or a mark between "
                "thousands, and no value of the file tells which: give --decimal . or --decimal ,"
            )
        return "."

    @property
    def decided(self) -> bool:
        """Whether what was seen tells the form."""
        return any(self._sure.values())
