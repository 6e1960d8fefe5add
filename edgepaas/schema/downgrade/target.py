# SPDX-License-Identifier: Apache-2.0
"""Which revision a downgrade leads to; no database."""

from collections.abc import Iterable

from edgepaas.errors import UsageError
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import SchemaError


def require_known(chain: Chain, found: Revisions | None, where: str) -> Revisions:
    """Return the revisions *found* in the database *where*; SchemaError where nothing is known."""
    if not found:
        raise SchemaError(
            f"{where} has no version: 'edgepaas schema --repair' finds out which it is"
        )
    if unknown := found - frozenset(chain.parents):
        raise SchemaError(
            f"{where} is at {show(unknown)}, which this build does not know: only the build that "
            f"made it can take it back"
        )
    return found


def target_of(chain: Chain, wanted: str, found: Iterable[Revisions]) -> str:
    """Return the revision to go back to: *wanted*, or the one before the newest of *found*.

    *found* are the revisions of each database. Raises UsageError where there is no such revision.
    """
    if chain.unwritten:
        raise UsageError(f"the application {chain.name} has no migrations to be taken back")
    if wanted:
        if wanted not in chain.parents:
            known = ", ".join(sorted(chain.parents))
            raise UsageError(f"there is no revision {wanted}; there are {known}")
        return wanted
    there = frozenset[str]().union(*found)
    newest = {one for one in there if not any(one in chain.ancestors(other) for other in there)}
    if not newest:
        raise UsageError("there is no database to be taken back")
    before = {parent for one in newest for parent in chain.parents[one]}
    if not before:
        raise UsageError(f"{show(newest)} is the first revision: nothing comes before it")
    if len(before) > 1:
        raise UsageError(f"before {show(newest)} come {show(before)}: name the one that you mean")
    return before.pop()


def comes_before(chain: Chain, found: Revisions, target: str) -> bool:
    """Whether a database at *found* is to be taken back to reach *target*.

    False where it is there, or has not come so far. Raises UsageError where *target* lies on
    another branch.
    """
    if found == {target} or all(one in chain.ancestors(target) for one in found):
        return False
    if all(target in {one, *chain.ancestors(one)} for one in found):
        return True
    raise UsageError(f"{target} does not come before {show(found)}")
