# SPDX-License-Identifier: Apache-2.0
"""Running examinations: each bounded, none of them able to break another."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgepaas.errors import EdgePaaSError
from edgepaas.logs.redact import redact

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
    found: list[Finding] = []

    def look() -> None:
        try:
            seen = examination.look()
            found.extend(seen if isinstance(seen, list) else [seen])
        except (EdgePaaSError, OSError) as error:
            found.append(Finding(examination.name, "fail", str(error), examination.advice))
        except Exception as error:  # noqa: BLE001 - the others are still wanted
            trouble = f"{type(error).__name__}: {error}"
            found.append(Finding(examination.name, "fail", trouble, examination.advice))

    thread = threading.Thread(target=look, name=f"doctor-{examination.name}", daemon=True)
    thread.start()
    thread.join(limit)
    if thread.is_alive():
        hung = f"no answer within {limit:g} s"
        return [Finding(examination.name, "fail", hung, examination.advice)]
    return found
