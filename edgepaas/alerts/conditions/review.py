# SPDX-License-Identifier: Apache-2.0
"""Which raised conditions hold no longer, by the checks that the catalogue names.

What raised one may be gone: a process, an earlier release, a setting that was changed since.
The service asks anew at each start and each hour. Events that an earlier release kept open are
resolved as well.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgepaas.alerts.catalogue import CATALOGUE, find_entry
from edgepaas.alerts.catalogue_entry import CatalogueEntry

#: Given a fingerprint, returns how things are now where the condition holds no longer; None
#: while it holds, and where that cannot be known.
Check = Callable[[str], str | None]

logger = logging.getLogger("edgepaas.alerts")


@dataclass(frozen=True)
class Ended:
    """A condition that holds no longer, and how things are now."""

    fingerprint: str
    holds_now: str


def find_ended(
    raised: Iterable[str],
    checks: Mapping[str, Check],
    entries: Iterable[CatalogueEntry] = CATALOGUE,
) -> Iterator[Ended]:
    """Yield what of the *raised* fingerprints holds no longer.

    *checks* by name; an entry whose check is not among them is left to the process that
    has it; a fingerprint without an entry is an application's, or was raised by hand. A check
    that fails is logged, and its condition goes on to hold.
    """
    entries = tuple(entries)
    for fingerprint in raised:
        entry = find_entry(fingerprint, entries)
        if entry is None:
            continue
        if entry.kind == "event":
            yield Ended(fingerprint, f"{fingerprint} happened once, and nothing of it holds")
        elif entry.check in checks:
            holds_now = _asked(checks[entry.check], fingerprint)
            if holds_now:
                yield Ended(fingerprint, holds_now)


def _asked(check: Check, fingerprint: str) -> str | None:
    try:
        return check(fingerprint)
    except Exception:
        # The others are asked all the same; this one is asked again in an hour.
        logger.exception("whether %s still holds could not be found out", fingerprint)
        return None
