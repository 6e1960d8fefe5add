# SPDX-License-Identifier: Apache-2.0
"""The checks that tell whether a condition of the alert catalogue still holds, by name.

What each asks is written here; the functions stand where they can see what they ask about:
edgepaas.service.watches.condition_checks, the drainer's heartbeat, and the stages.
"""

#: Each check: what it asks, and who asks it when.
CHECKS = {
    "settings-in-order": (
        "whether the setting can be read and has a permitted value",
        "the environment stage, whenever the boot chain runs",
    ),
    "unit-works": (
        "whether what the unit has to write or to do is there: its contract, a running service, "
        "a running drainer",
        "the unit when it ends well; the service at each start and each hour",
    ),
    "service-runs": (
        "whether the service has started",
        "the service at each start and each hour",
    ),
    "database-answers": (
        "whether the database that the decision chose answers, and is not a fallback",
        "the service when the database answers again, at each start and each hour",
    ),
    "no-fallback": (
        "whether the database that was wanted serves",
        "the decision; the service at each start and each hour",
    ),
    "postgresql-usable": (
        "whether PostgreSQL serves, or is not wanted to",
        "the schema stage; the service at each start and each hour",
    ),
    "no-row-left": (
        "whether any such row is left, by the counts that the drainer and PostgreSQL keep; none "
        "is where no PostgreSQL is configured any more",
        "the service every ten seconds",
    ),
    "postgresql-takes-rows": (
        "whether the drainer delivers, or no PostgreSQL is configured any more",
        "the drainer after each success; the service at each start and each hour",
    ),
    "node-id-unique": (
        "whether another start of a box has sent heartbeats under this node id lately",
        "the drainer with each heartbeat; the service where no PostgreSQL is configured any more",
    ),
    "file-is-our-own": (
        "whether the SQLite file was last used by this application, or is not used",
        "the schema stage; the service at each start and each hour",
    ),
    "file-at-head": (
        "whether the SQLite file is at the application's head revision, or is not used",
        "the schema stage; the service at each start and each hour",
    ),
    "nothing-set-aside": (
        "whether the quarantine holds a file with rows",
        "the schema stage; the service at each start and each hour",
    ),
    "schema-stage-complete": (
        "whether the last run of the schema stage did all that it had to",
        "the schema stage; the service at each start and each hour",
    ),
    "budget-kept": (
        "whether the SQLite file takes less of DISK_BUDGET than the first level at which the "
        "box acts",
        "the service every five seconds while SQLite serves, at each start and each hour",
    ),
    "watched-and-well": (
        "whether the value or check has been well for a minute, or is not watched any more",
        "the service every ten seconds, at each start and each hour",
    ),
}
