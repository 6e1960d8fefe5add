# SPDX-License-Identifier: Apache-2.0
"""The checks that find out whether a condition of the alert catalogue still holds, by name.

What each asks is written here; the functions stand where they can see what they ask about:
edgepaas.service.watches.condition_checks, the drainer's heartbeat, and the stages.
"""

from typing import NamedTuple


class CheckDescription(NamedTuple):
    """*asks*: how things are once the condition holds no longer; *asked_by*: by what, and when."""

    asks: str
    asked_by: str


_SERVICE = "the service at each start and each hour"
_STAGE = f"the schema stage, and {_SERVICE}"

CHECKS = {
    "settings-in-order": CheckDescription(
        "the setting can be read and has a permitted value",
        "the environment stage, whenever the boot chain runs",
    ),
    "unit-works": CheckDescription(
        "the unit's work is there: a stage's contract, the running service, the running drainer",
        f"the unit when it ends well, and {_SERVICE}",
    ),
    "service-runs": CheckDescription("the service has started", _SERVICE),
    "database-answers": CheckDescription(
        "the database answers, and is the one that was wanted",
        f"the service when its database answers again, and {_SERVICE}",
    ),
    "no-fallback": CheckDescription(
        "the database that was wanted serves", f"the decision, and {_SERVICE}"
    ),
    "postgresql-usable": CheckDescription("PostgreSQL serves, or is not wanted to", _STAGE),
    "writes-accepted": CheckDescription(
        "PostgreSQL takes writes to the table again, or is not configured any more",
        "the service after a write that succeeds, the drainer after each rehearsal, and "
        f"{_SERVICE}",
    ),
    "no-row-left": CheckDescription(
        "no such row is left, or no PostgreSQL is configured any more",
        "the service every ten seconds, by the counts of the drainer and PostgreSQL",
    ),
    "audit-adds-up": CheckDescription(
        "the last audit left nothing open that no operator knows of, or no PostgreSQL is "
        "configured any more",
        f"the drainer after each audit, and {_SERVICE}",
    ),
    "state-loss-known": CheckDescription("an operator has acknowledged the loss", _SERVICE),
    "postgresql-takes-rows": CheckDescription(
        "PostgreSQL takes rows again, or is not configured any more",
        f"the drainer after each success, and {_SERVICE}",
    ),
    "node-id-unique": CheckDescription(
        "no other box was seen under this node id for ten heartbeats, or no PostgreSQL is "
        "configured any more",
        f"the drainer with each heartbeat, and {_SERVICE}",
    ),
    "file-is-our-own": CheckDescription(
        "the SQLite file was last used by this application, or is not used any more", _STAGE
    ),
    "schema-accepted": CheckDescription("this release works on the database", _STAGE),
    "file-at-head": CheckDescription(
        "the SQLite file is at the application's head revision, or is not used any more", _STAGE
    ),
    "nothing-set-aside": CheckDescription("the quarantine holds no file with rows", _STAGE),
    "schema-stage-complete": CheckDescription("the schema stage did all that it had to", _STAGE),
    "budget-kept": CheckDescription(
        "the SQLite file takes less of DISK_BUDGET than the first level at which the box acts",
        f"the service every five seconds while SQLite serves, and {_SERVICE}",
    ),
    "journal-written": CheckDescription(
        "the journal is written again, or PostgreSQL does not serve any more",
        f"the service every second while PostgreSQL serves, and {_SERVICE}",
    ),
    "journal-read": CheckDescription(
        "the journal can be read, or is not there",
        f"the drainer whenever it reads it, and {_SERVICE}",
    ),
    "hub-schema-complete": CheckDescription(
        "PostgreSQL's schema is this build's, or no PostgreSQL is configured any more",
        f"the schema stage, 'edgepaas schema --hub', which the drainer runs again, and {_SERVICE}",
    ),
    "hub-captures": CheckDescription(
        "PostgreSQL captures changes, or serves no more",
        f"the service with each comparison of marks, and {_SERVICE}",
    ),
    "watched-and-well": CheckDescription(
        "the value or check has been well for a minute, or is not watched any more",
        f"the service every ten seconds, and {_SERVICE}",
    ),
}
