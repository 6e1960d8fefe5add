# SPDX-License-Identifier: Apache-2.0
"""The alert catalogue for people and programs: docs/alerts.md, and a JSON document."""

from typing import Any

from edgepaas.alerts.catalogue import CATALOGUE
from edgepaas.alerts.catalogue_checks import CHECKS
from edgepaas.alerts.catalogue_entry import CatalogueEntry

_HEAD = """\
# Alerts

<!-- Written by 'edgepaas alerts catalogue --markdown'; a test compares the two. -->

Every alert that the platform can raise. Applications raise their own under other fingerprints,
as telemetry's rules do, and `edgepaas alert` raises one by hand.

An **event** happened: an operator is notified once, and nothing holds afterwards. A
**condition** holds until its check finds that it does not; then an operator is notified that
it is resolved. It does not matter which process or which release raised it.

`edgepaas alerts list` shows what holds now, `edgepaas alerts history` what was raised, resolved
and delivered. `*` in a fingerprint stands for a subject, such as the name of a setting.
"""


def markdown_reference() -> str:
    """Return docs/alerts.md."""
    lines = [_HEAD, "| fingerprint | kind | severity | what happened |", "|---|---|---|---|"]
    for entry in CATALOGUE:
        cells = (f"[`{entry.pattern}`](#{_anchor(entry)})", entry.kind, _severities(entry))
        lines.append(f"| {' | '.join((*cells, entry.what_happened))} |")
    for entry in CATALOGUE:
        lines += ["", f"## {_title(entry)}", "", entry.what_happened, "", "What to do: "]
        lines[-1] += entry.what_to_do
        lines += ["", f"Severity: {_severities(entry)}. Raised by: `{entry.origin}`. {_end(entry)}"]
    return "\n".join(lines) + "\n"


def as_documents() -> list[dict[str, Any]]:
    """Return one object an entry: its fields, the check with what it asks and who asks it."""
    return [
        {
            "fingerprint": entry.pattern,
            "kind": entry.kind,
            "severities": [entry.severity, *entry.also],
            "origin": entry.origin,
            "what_happened": entry.what_happened,
            "what_to_do": entry.what_to_do,
            "check": entry.check or None,
            "holds_until": CHECKS[entry.check].asks if entry.check else None,
            "asked_by": CHECKS[entry.check].asked_by if entry.check else None,
        }
        for entry in CATALOGUE
    ]


def _end(entry: CatalogueEntry) -> str:
    if not entry.check:
        return "An event: over once it was delivered."
    check = CHECKS[entry.check]
    return f"Holds until: {check.asks} (asked by {check.asked_by})."


def _severities(entry: CatalogueEntry) -> str:
    return " or ".join((entry.severity, *entry.also))


def _title(entry: CatalogueEntry) -> str:
    return f"`{entry.pattern}`"


def _anchor(entry: CatalogueEntry) -> str:
    """Return the heading's anchor as GitHub makes it: no punctuation, hyphens for spaces."""
    kept = (c for c in entry.pattern.lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")
