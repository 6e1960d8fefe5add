# SPDX-License-Identifier: Apache-2.0
"""Readings as a machine of the field sends them: for weeks, one every five minutes.

Made by a rule, so that the tests carry no data: a temperature that wanders, halts now and
then (long ones and short ones, some hovering about where a rule looks), and a clock that
steps back once by 55 minutes, so that 12 moments occur twice, with different values.
"""

import os
import random
from datetime import datetime, timedelta
from pathlib import Path

#: Eleven weeks.
READINGS = 22_695
#: How many the tests of 'make test' take.
SOME = READINGS if os.environ.get("EDGEPAAS_SOAK") else 4_000
#: So many moments occur twice.
REPEATED = 12
STEP = timedelta(minutes=5)
BEGIN = datetime(2024, 1, 2, 21, 15)


def stepped_back(count: int) -> int:
    """Return which one of *count* readings is the first after the clock stepped back."""
    return count * 4 // 9


def lines(count: int = READINGS) -> list[str]:
    """Return the file's lines, the header first; the same ones each time."""
    # Only random(): of its methods this one gives the same numbers in every version of Python.
    chance = random.Random(22_695).random
    told, moment, warmth = ["timestamp,value"], BEGIN, 85.0
    halt, aim = 0, 85.0
    for number in range(count):
        if number == stepped_back(count):
            moment -= REPEATED * STEP
        if halt == 0 and chance() < 0.01:
            halt = int(2 + 60 * chance() ** 3)  # most are short
            aim = 48.0 + 14.0 * chance()
        halt -= halt > 0
        aim = aim if halt else 85.0
        warmth += (aim - warmth) * (0.5 if halt else 0.2) + 8 * (chance() - 0.5)
        told.append(f"{moment.isoformat(sep=' ')},{warmth:.9f}")
        moment += STEP
    return told


def write(path: Path, count: int = READINGS) -> Path:
    """Write a file of *count* readings and return where it is."""
    path.write_text("\n".join(lines(count)) + "\n", encoding="ascii")
    return path
