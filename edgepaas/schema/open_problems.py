# SPDX-License-Identifier: Apache-2.0
"""What the last run of the schema stage could not do: the box serves all the same, or may not.

Imports nothing heavy: the service asks it at its start.
"""

import contextlib
from collections.abc import Callable

from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably
from edgepaas.files.paths import Paths
from edgepaas.files.records import NotThisRecord, RecordType
from edgepaas.timing.moment import current_moment, read_moment

#: In run/.
_NAME = "schema-problem"
RECORD = RecordType("schema-problem", 2, {"message": shapes.text})
_REFUSAL_NAME = "schema-refusal"
REFUSAL_RECORD = RecordType(
    "schema-refusal",
    1,
    {
        "message": shapes.text,
        "attempt": shapes.text,
        "at": shapes.object_of(
            {"wall": shapes.number, "since_boot": shapes.number, "boot_id": shapes.text}
        ),
    },
)
#: Seconds after which what was refused is tried again, though nothing has changed: what made a
#: migration fail may have been the machine. Each attempt copies the whole file.
TRIED_AGAIN_AFTER = 600.0


def record_problem(paths: Paths, message: str, entry: CatalogueEntry) -> None:
    """Raise *entry*'s alert: the box serves, and something is not as it should be."""
    entry.raise_alert(message)
    with contextlib.suppress(OSError):  # the alert has been raised; the disk may be what fails
        RECORD.write(paths.runtime / _NAME, {"message": entry.message(message)})


def clear_problem(paths: Paths) -> None:
    """Forget the problem: the stage did all that it had to."""
    remove_durably(paths.runtime / _NAME)


def open_problem(paths: Paths) -> str:
    """Return what the last run of the stage could not do; empty: nothing."""
    try:
        found = RECORD.read(paths.runtime / _NAME)
    except (OSError, NotThisRecord) as error:
        return f"what the schema stage could not do cannot be read: {error}"
    return "" if found is None else " ".join(found["message"].split())


def record_refusal(paths: Paths, message: str, attempt: str) -> None:
    """Keep the service from taking traffic: this build cannot work on the database as it is.

    *message* is what clients and people are told; *attempt* stands for what was tried on what
    (empty: it is tried again at each run). Raises OSError: without this record the service
    would find out less well, and later.
    """
    REFUSAL_RECORD.write(
        paths.runtime / _REFUSAL_NAME,
        {"message": message, "attempt": attempt, "at": current_moment().as_dict()},
    )


def clear_refusal(paths: Paths) -> None:
    """Forget the refusal: this build can work on the database."""
    remove_durably(paths.runtime / _REFUSAL_NAME)


def open_refusal(paths: Paths) -> str:
    """Return why the schema stage refused the database; empty: it did not."""
    try:
        found = REFUSAL_RECORD.read(paths.runtime / _REFUSAL_NAME)
    except (OSError, NotThisRecord) as error:
        return f"why the schema stage refused the database cannot be read: {error}"
    return "" if found is None else " ".join(found["message"].split())


def refused_before(paths: Paths, attempt: Callable[[], str]) -> str:
    """Return the refusal of the same *attempt* a short while ago; empty: it is to be tried."""
    found = REFUSAL_RECORD.read_or_none(paths.runtime / _REFUSAL_NAME)
    if found is None or not found["attempt"] or found["attempt"] != attempt():
        return ""
    try:
        passed = current_moment().seconds_since(read_moment(found["at"]))
    except ValueError:  # a clock that cannot be
        return ""
    recent = passed is not None and passed < TRIED_AGAIN_AFTER
    return str(found["message"]) if recent else ""
