# SPDX-License-Identifier: Apache-2.0
"""``run/stage-failure.json``: why a stage of the boot chain failed, for the service's answers.

The stage leaves it, and the next run of the same stage removes it, or of the first one.
"""

import contextlib

from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType
from edgepaas.logs.redact import redact

RECORD = RecordType("stage-failure", 1, {"stage": shapes.text, "message": shapes.text})
_NAME = "stage-failure.json"
#: In the order in which they run.
STAGES = ("env", "dbdecide", "schema")


def begin_stage(paths: Paths, stage: str) -> None:
    """Forget the failure of *stage*, and of those after it: they run anew."""
    found = RECORD.read_or_none(paths.runtime / _NAME)
    if found is not None and found["stage"] in STAGES[STAGES.index(stage) :]:
        with contextlib.suppress(OSError):  # a full or read-only /run fails the stage by itself
            remove_durably(paths.runtime / _NAME)


def note_failure(paths: Paths, stage: str, error: BaseException) -> None:
    """Leave why *stage* failed; whatever keeps it from being written, the stage's error counts.

    The failure of a stage before it stays: that this one lacks what the other writes is no cause.
    """
    found = RECORD.read_or_none(paths.runtime / _NAME)
    if found is not None and found["stage"] in STAGES[: STAGES.index(stage)]:
        return
    message = " ".join(str(error).split()) or type(error).__name__
    with contextlib.suppress(OSError):
        RECORD.write(paths.runtime / _NAME, {"stage": stage, "message": redact(message)})


def failed_stage(paths: Paths) -> str:
    """Return which stage failed and why, in a line; empty where none is known to have."""
    found = RECORD.read_or_none(paths.runtime / _NAME)
    return "" if found is None else f"the stage '{found['stage']}' failed: {found['message']}"
