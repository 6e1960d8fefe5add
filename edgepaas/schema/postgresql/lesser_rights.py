# SPDX-License-Identifier: Apache-2.0
"""A role that may write PostgreSQL's tables and not change its schema: an upgrade stops no box.

What this build would add there is not added. Where the tables take all that it writes, it works as
the build before it did, and reports what it cannot promise until the owner of the tables has run
what ``edgepaas schema --sql`` prints.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import RightsLacking, SchemaError
from edgepaas.schema.postgresql.chain_upgrade import require_compatible
from edgepaas.schema.report import SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

WAY_OUT = (
    "what 'edgepaas schema --sql' prints, run by the owner of its tables, adds what is lacking"
)

#: What the platform cannot promise without a revision of its chain; all tables that come with
#: these are optional (edgepaas.schema.fingerprint).
_WITHOUT = {
    "0002": "what PostgreSQL acknowledged and lost is not noticed",
    "0003": "what PostgreSQL loses of the application's own writes, appended facts left out, "
    "cannot be sent again",
    "0004": "a PostgreSQL that went back in time is not told from one where rows were deleted",
    "0005": "columns that were renamed there are not followed, and a revision that drops a column "
    "does not wait for rows of this box",
}


def works_as_before(
    connection: "Connection",
    chain: Chain,
    metadata: "MetaData | None",
    lacking: RightsLacking,
    *,
    forwarding: bool,
) -> SchemaReport:
    """Return what this build works with on the schema as it is, after *lacking* was raised.

    Raises SchemaError with the way out where it cannot.
    """
    from edgepaas.schema import migrations, ownership

    ownership.require_own(connection, chain, "PostgreSQL", metadata)
    before = migrations.versions(connection, chain)
    if not before:
        raise SchemaError(f"{lacking}; {WAY_OUT}") from lacking
    if chain.only_postgres:
        promises = [_WITHOUT[one] for one in sorted(_missing(chain, before)) if one in _WITHOUT]
    else:
        try:
            require_compatible(connection, chain, metadata, "", "", forwarding=forwarding)
        except SchemaError as error:
            raise SchemaError(f"{lacking}, and {error}; {WAY_OUT}") from lacking
        promises = []
    what = "EdgePaaS's own tables" if chain.only_postgres else f"the tables of {chain.name}"
    at = f"are used as they are, at {show(before)}"
    if before != chain.heads:
        at += f" instead of {show(chain.heads)}"
    reservation = f"{what} {at} ({lacking.said})"
    if promises:
        reservation += f": {'; '.join(promises)}"
    return SchemaReport(
        "postgresql",
        "nothing" if before == chain.heads else "unmigrated",
        tuple(sorted(before)),
        tuple(sorted(before)),
        f"at {show(before)}, and this role may not change it",
        reservation=reservation,
    )


def reservation_of(found: Sequence[str]) -> str:
    """Return the reservations about one PostgreSQL as one, with the way out."""
    return f"this box's role may not change the schema of PostgreSQL: {'; '.join(found)}; {WAY_OUT}"


def _missing(chain: Chain, reached: Revisions) -> set[str]:
    """Return the revisions of *chain* that are not among *reached* and what comes before them."""
    there: set[str] = set()
    pending = list(reached)
    while pending:
        revision = pending.pop()
        if revision not in there:
            there.add(revision)
            pending += chain.parents.get(revision, ())
    return set(chain.parents) - there
