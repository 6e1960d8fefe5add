# SPDX-License-Identifier: Apache-2.0
"""Running examinations: each bounded, none of them able to break another."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgepaas.errors import EdgePaaSError
from edgepaas.logs.redact import redact
from edgepaas.timing.deadline import OutOfTime, within

#: Seconds after which an examination counts as hung.
LIMIT = 15.0

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; *advice* says what to do when it is not ``ok``."""

    name: str
    level: Level
    message: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding for ``--json``."""
        return {
            "name": self.name,
            "level": self.level,
            "message": self.message,
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Examination:
    """A named look at something; *advice* is for the case that it fails unexpectedly."""

    name: str
    look: Callable[[], Finding | list[Finding]]
    advice: str = ""


def examine(examinations: Iterable[Examination], *, limit: float = LIMIT) -> Iterator[Finding]:
    """Yield the findings, each within *limit* seconds; whatever one raises becomes a finding."""
    for examination in examinations:
        for finding in _bounded(examination, limit):
            yield Finding(
                finding.name, finding.level, redact(finding.message), redact(finding.advice)
            )


def _bounded(examination: Examination, limit: float) -> list[Finding]:
    def failed(message: str) -> list[Finding]:
        return [Finding(examination.name, "fail", message, examination.advice)]

    try:
        found = within(limit, lambda _: examination.look(), name=f"doctor-{examination.name}")
    except OutOfTime:
        return failed(f"no answer within {limit:g} s")
    except (EdgePaaSError, OSError) as error:
        return failed(str(error))
    except Exception as error:  # noqa: BLE001 - the others are still wanted
        return failed(f"{type(error).__name__}: {error}")
    return found if isinstance(found, list) else [found]
