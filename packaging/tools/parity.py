# SPDX-License-Identifier: Apache-2.0
"""Write the table of what passed in which home, from what the parity suite left behind.

    parity.py [--check] [RESULTS] [DOCUMENT]

RESULTS is what tests/system/parity writes (default: build/parity.json). The table goes
between two markers of DOCUMENT (default: docs/testing.md). ``--check`` changes nothing and
ends with 1 when the table is another one.
"""

import json
import sys
from pathlib import Path
from typing import Any

from common import REPOSITORY

BEGIN = "<!-- parity: begin (written by packaging/tools/parity.py) -->\n"
END = "<!-- parity: end -->"


def main(arguments: list[str]) -> int:
    """Write or compare the table; returns the exit status."""
    check = "--check" in arguments
    names = [argument for argument in arguments if argument != "--check"]
    results = Path(names[0]) if names else REPOSITORY / "build" / "parity.json"
    document = Path(names[1]) if len(names) > 1 else REPOSITORY / "docs" / "testing.md"
    table = render(json.loads(results.read_text(encoding="utf-8")))
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"parity: {document} lacks the lines {BEGIN.strip()} and {END}")
    if check:
        if old.strip() == table.strip():
            return 0
        print(f"parity: {document.name} differs from {results}: run {Path(__file__).name}")
        return 1
    document.write_text(f"{before}{BEGIN}{table}{END}{after}", encoding="utf-8")
    return 0


def render(found: dict[str, Any]) -> str:
    """Return the table: a row for each group of tests, a column for each home."""
    homes, tests = found["homes"], found["tests"]
    groups: dict[str, list[dict[str, str]]] = {}
    for name, outcomes in tests.items():
        groups.setdefault(name.partition("::")[0], []).append(outcomes)
    lines = ["", f"| | {' | '.join(f'`{h}`' if h == 'make run' else h for h in homes)} |"]
    lines += [f"|---|{'---|' * len(homes)}"]
    for group, outcomes in groups.items():
        cells = [_cell([o.get(home, "not run") for o in outcomes]) for home in homes]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", ""])


def _cell(outcomes: list[str]) -> str:
    passed = outcomes.count("passed")
    if passed == len(outcomes):
        return f"{passed} passed"
    rest = [f"{outcomes.count(word)} {word}" for word in ("failed", "skipped", "not run")
            if word in outcomes]  # fmt: skip
    return ", ".join([f"{passed} passed", *rest] if passed else rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
