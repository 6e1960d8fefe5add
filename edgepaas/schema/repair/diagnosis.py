# SPDX-License-Identifier: Apache-2.0
"""What is odd about migration scripts, and about the revisions that a database says it has."""

from edgepaas.schema.chain import Chain, Revisions, show


def diagnose_scripts(chain: Chain) -> list[str]:
    """Return what is odd about the scripts themselves."""
    if len(chain.heads) > 1:
        return [
            f"the scripts have two heads ({show(chain.heads)}): both are applied; "
            f"'edgepaas schema --revision MSG' writes the migration that joins them"
        ]
    return []


def diagnose_versions(chain: Chain, found: Revisions | None) -> list[str]:
    """Return what is wrong with the revisions that a database says it has."""
    if found is None:
        return [f"there is no version table ({chain.version_table})"]
    unknown = found - frozenset(chain.parents)
    steps = []
    if unknown:
        steps.append(f"its revision {show(unknown)} is unknown to this build")
    overlapping = overlapping_revisions(chain, found)
    if overlapping:
        steps.append(
            f"it says {show(found)}, though {show(overlapping)} comes before one of the others"
        )
    return steps


def overlapping_revisions(chain: Chain, found: Revisions) -> Revisions:
    """Return those of *found* that come before another one of them."""
    known = found & frozenset(chain.parents)
    return frozenset(r for r in known if any(r in chain.ancestors(other) for other in known))
