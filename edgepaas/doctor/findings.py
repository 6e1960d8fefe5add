# SPDX-License-Identifier: Apache-2.0
"""Running examinations: each within a time limit, and independent of the others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgepaas.errors import ConfigurationError, EdgePaaSError
from edgepaas.logs.redact import redact
from edgepaas.timing.deadline import OutOfTime, within

#: Seconds after which an examination counts as hung.
LIMIT = 15.0

#: What an examination that cannot be carried out at all comes from.
_DAMAGED = (
    "a part of EdgePaaS or of the application is missing or damaged: install both again, e.g. "
    "'apt-get install --reinstall ./edgepaas_VERSION_all.deb'"
)

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One result; ``advice`` says what to do when it is not ``ok``."""

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
    """A function that returns findings; ``advice`` is used if it raises or hangs."""

    name: str
    run: Callable[[], Finding | list[Finding]]
    advice: str = ""


def examine(examinations: Iterable[Examination], *, limit: float = LIMIT) -> Iterator[Finding]:
    """Yield the findings; an examination that raises, or exceeds *limit* seconds, is a failure."""
    for examination in examinations:
        for finding in _bounded(examination, limit):
            yield Finding(
                finding.name, finding.level, redact(finding.message), redact(finding.advice)
            )


def _bounded(examination: Examination, limit: float) -> list[Finding]:
    def failed(message: str, advice: str = examination.advice) -> list[Finding]:
        return [Finding(examination.name, "fail", message, advice)]

    try:
        found = within(limit, lambda _: examination.run(), name=f"doctor-{examination.name}")
    except OutOfTime:
        return failed(f"no answer within {limit:g} s")
    except ConfigurationError as error:
        return failed(str(error), "correct what the message names, then restart")
    except (EdgePaaSError, OSError) as error:
        return failed(str(error))
    except Exception as error:  # noqa: BLE001 - the other examinations still run
        # Nothing of the box is known to be wrong, so no remedy for it is one for this.
        return failed(f"{type(error).__name__}: {error}", _DAMAGED)
    return found if isinstance(found, list) else [found]
