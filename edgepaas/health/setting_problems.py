# SPDX-License-Identifier: Apache-2.0
"""``run/setting-problems.json``: settings in force that are not what an operator asked for.

The environment stage writes it, and the service says so for as long as it holds: a default that
stands for an address that cannot be read may keep every row on the box.
"""

import contextlib
from collections.abc import Sequence

from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType

RECORD = RecordType("setting-problems", 1, {"problems": shapes.list_of(shapes.text)})
_NAME = "setting-problems.json"


def record_setting_problems(paths: Paths, problems: Sequence[str]) -> None:
    """Keep *problems*, a line each; none removes what was kept."""
    with contextlib.suppress(OSError):  # each raises an alert as well; /run may be full
        if problems:
            RECORD.write(paths.runtime / _NAME, {"problems": list(problems)})
        else:
            remove_durably(paths.runtime / _NAME)


def setting_problems(paths: Paths) -> list[str]:
    """Return what the environment stage found; nothing where that cannot be read."""
    found = RECORD.read_or_none(paths.runtime / _NAME)
    return [] if found is None else list(found["problems"])
