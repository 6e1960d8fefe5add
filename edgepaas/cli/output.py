"""What commands print: one line a stage, tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def say(stage: str, text: str) -> None:
    """Print a stage's one line, e.g. ``decision     SQLite, standalone: no DATABASE_URL``."""
    print(f"{stage:<12} {text}", flush=True)


def print_json(value: Any) -> None:
    """Print *value* as indented JSON, one document."""
    json.dump(value, sys.stdout, indent=2, sort_keys=False, default=str, ensure_ascii=False)
    sys.stdout.write("\n")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print *rows* under *headers* in columns as wide as their widest cell."""
    cells = [list(headers), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())
