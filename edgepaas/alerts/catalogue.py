# SPDX-License-Identifier: Apache-2.0
"""The alert catalogue: every alert that the platform can raise, and the checks that end it.

An *event* happened: an operator is notified once, and nothing holds afterwards. A *condition*
holds until its check finds that it does not. The checks are named here and stand where they
can see what they ask about: the service's in edgepaas.service.watches.condition_checks, asked
at each start and each hour; the drainer's and the stages' beside the work that they judge.

The platform raises and resolves through these entries alone. Alerts of an application, and
those raised by hand, have fingerprints of their own and are not listed here.
"""

from collections.abc import Iterable
from typing import Any

from edgepaas.alerts.catalogue_entry import CatalogueEntry

_entries: list[CatalogueEntry] = []


def _entry(pattern: str, **fields: Any) -> CatalogueEntry:
    entry = CatalogueEntry(pattern, **fields)
    _entries.append(entry)
    return entry


# -- The boot chain --

SETTING = _entry(
    "settings:*",
    origin="edgepaas-env",
    severity="warning",
    what_happened="A setting is malformed or contradicts another; a default stands for it.",
    what_to_do="Correct it and restart edgepaas.",
    check="settings-in-order",
)
#: Raised by systemd/ended, by the same name.
UNIT = _entry(
    "unit *",
    origin="edgepaas-*",
    severity="critical",
    what_happened="A unit of the boot chain, the service or the drainer ended with a failure; it "
    "is started again.",
    what_to_do="'journalctl -u edgepaas-UNIT' says why ('-u edgepaas' for the service).",
    check="unit-works",
)
SERVICE_START = _entry(
    "service-start",
    origin="service",
    severity="critical",
    what_happened="The service could not start, or its verification failed.",
    what_to_do="It is tried again; 'edgepaas doctor' looks for causes.",
    check="service-runs",
)
DATABASE_FALLBACK = _entry(
    "database-fallback",
    origin="edgepaas-dbdecide",
    severity="warning",
    what_happened="SQLite serves in the place of PostgreSQL.",
    what_to_do="Nothing is lost: rows go to PostgreSQL once it is back, and then it serves again "
    "by itself; see that it comes back.",
    check="no-fallback",
)
DATABASE_LOST = _entry(
    "database-lost",
    origin="service",
    severity="critical",
    what_happened="The database stopped answering while the service ran.",
    what_to_do="See that it comes back: until then the box serves from SQLite where BOTH_DB "
    "permits it, and else answers 503.",
    check="database-answers",
    also=("warning",),
)
POSTGRES_UNUSABLE = _entry(
    "postgres-unusable",
    origin="schema",
    severity="critical",
    what_happened="PostgreSQL was reachable and cannot be used: it is read-only, locked, or its "
    "schema does not fit.",
    what_to_do="SQLite serves meanwhile and PostgreSQL is tried again by itself; mend what "
    "the reason names.",
    check="postgresql-usable",
)

WRITES_REFUSED = _entry(
    "writes-refused:*",
    origin="service",
    severity="critical",
    what_happened="PostgreSQL answers, and refuses every write to a table: a right is missing, "
    "it is locked, read-only or full, or the table was changed so that it does not keep every row "
    "as it is.",
    what_to_do="Mend what is named. Nothing is lost: rows are kept on the box where SQLite may "
    "serve, are sent once PostgreSQL takes them, and then it serves again by itself.",
    check="writes-accepted",
)

# -- The SQLite file --

DATABASE_FOREIGN = _entry(
    "sqlite-foreign",
    origin="schema",
    severity="critical",
    what_happened="The database is another application's. It is left as it is, and the box "
    "answers 503.",
    what_to_do="Give each application a database of its own: DATABASE_URL_SQLITE names a file, "
    "DATABASE_URL a PostgreSQL.",
    check="file-is-our-own",
)
SCHEMA_REFUSED = _entry(
    "schema-refused",
    origin="schema",
    severity="critical",
    what_happened="This release cannot work on the database: a migration fails on it, another "
    "release or another application made it. Nothing was changed, and the box answers 503.",
    what_to_do="Install a release that works on it, or mend what is named; it is tried again by "
    "itself.",
    check="schema-accepted",
)
SQLITE_UNMIGRATED = _entry(
    "sqlite-unmigrated",
    origin="schema",
    severity="warning",
    what_happened="A migration of the SQLite file failed; the file serves as it was.",
    what_to_do="Mend the migration, or run 'edgepaas schema --repair'.",
    check="file-at-head",
)
SQLITE_REBUILT = _entry(
    "sqlite-rebuilt",
    origin="schema",
    severity="critical",
    what_happened="The tables of the SQLite file were rebuilt, since no migration fitted them.",
    what_to_do="The file as it was is kept under the name given: compare it where a value seems "
    "to be missing.",
)
SQLITE_REPLACED = _entry(
    "sqlite-replaced",
    origin="schema",
    severity="critical",
    what_happened="The SQLite file was damaged; it was set aside and a fresh one opened.",
    what_to_do="'edgepaas doctor' and the log say more; take what is needed out of the old file, "
    "then remove its folder.",
    check="nothing-set-aside",
)
ROWS_LOST_IN_DAMAGE = _entry(
    "rows-lost-in-damage",
    origin="schema",
    severity="critical",
    what_happened="Changes that waited for PostgreSQL could not be read out of a damaged file.",
    what_to_do="Their number stays with the file in the quarantine, which 'edgepaas doctor' "
    "lists; look for the changes with the devices or people that sent them.",
)
QUARANTINE_PRUNED = _entry(
    "quarantine-pruned",
    origin="schema",
    severity="critical",
    what_happened="A file in the quarantine was deleted, with the rows in it: less than "
    "DISK_MIN_FREE was free.",
    what_to_do="Make room on the disk, and take care of what is still in the quarantine.",
)
NOT_CAPTURED = _entry(
    "not-captured",
    origin="schema",
    severity="critical",
    what_happened="Changes of the SQLite file may not reach PostgreSQL: its triggers are not in "
    "place.",
    what_to_do="'edgepaas schema' tries again, and 'edgepaas schema --repair' mends the file.",
    check="schema-stage-complete",
)
CAPTURE_RESTORED = _entry(
    "capture-restored",
    origin="service",
    severity="critical",
    what_happened="Triggers that capture changes were removed while the box ran, from its SQLite "
    "file or from PostgreSQL. They were put back before anything else was written: nothing that "
    "the service acknowledged went uncaptured, but what another program wrote may have.",
    what_to_do="Find out who removes them; 'edgepaas audit' compares both sides.",
)
HUB_NOT_CAPTURED = _entry(
    "hub-not-captured",
    origin="service",
    severity="critical",
    what_happened="PostgreSQL serves and does not capture changes: what it loses of the "
    "application's own writes, appended facts left out, cannot be sent again.",
    what_to_do="Run what 'edgepaas schema --sql' prints as the owner of the tables, or have "
    "'edgepaas schema --hub' run by a box that may change them (RUN_MIGRATIONS).",
    check="hub-captures",
)
FALLBACK_NOT_READY = _entry(
    "fallback-not-ready",
    origin="schema",
    severity="critical",
    what_happened="PostgreSQL serves, and SQLite could not take over.",
    what_to_do="'edgepaas doctor' looks for causes; the next run of the stage tries again.",
    check="schema-stage-complete",
)
SALVAGE_FAILED = _entry(
    "salvage-failed",
    origin="schema",
    severity="critical",
    what_happened="What a file in the quarantine still holds could not be brought into the new "
    "one.",
    what_to_do="It is tried again at the next start; the file is kept.",
    check="schema-stage-complete",
)
DISK_BUDGET = _entry(
    "disk-budget",
    origin="service",
    severity="warning",
    what_happened="The SQLite file takes much of its disk budget: from 85 % on LOW_VALUE rows "
    "are given up, from 95 % on writes are refused with 507 (critical).",
    what_to_do="Rows leave the box when PostgreSQL takes them; DISK_BUDGET sets the limit.",
    check="budget-kept",
    also=("critical",),
)
JOURNAL_UNUSABLE = _entry(
    "journal-unusable",
    origin="service",
    severity="critical",
    what_happened="The journal of what PostgreSQL acknowledges cannot be written, or was set "
    "aside. Writes are refused until it can be; where the disk takes no write at all, PostgreSQL "
    "serves without it.",
    what_to_do="Make room on the disk, or replace it; a file that was set aside lies beside the "
    "SQLite file.",
    check="journal-written",
)
JOURNAL_IN_USE = _entry(
    "journal-in-use",
    origin="service",
    severity="critical",
    what_happened="Another process has the journal of what PostgreSQL acknowledges, and does not "
    "let go of it: this one cannot open it, and refuses writes until it can.",
    what_to_do="Nothing where it is a release's overlap, or a file that is set aside: it is over "
    "within seconds. Else 'fuser' with the name of the lock file shows which process it is; end "
    "that one. The disk is not at fault.",
    check="journal-written",
)
ROWS_SHED = _entry(
    "rows-shed",
    origin="service",
    severity="warning",
    what_happened="Waiting rows of LOW_VALUE were given up to make room.",
    what_to_do="Bring the link to PostgreSQL back, or raise DISK_BUDGET.",
    check="budget-kept",
)

# -- Rows on their way to PostgreSQL --

ROWS_NOT_IN_POSTGRES = _entry(
    "rows-not-in-postgres",
    origin="edgepaas-dbdecide",
    severity="warning",
    what_happened="PostgreSQL serves without rows that still wait in the SQLite file.",
    what_to_do="'edgepaas sync status' shows how far they are on their way.",
    check="no-row-left",
)
ROWS_LEFT_BEHIND = _entry(
    "rows-left-behind",
    origin="schema",
    severity="critical",
    what_happened="PostgreSQL alone serves (BOTH_DB=false), without rows that could not be sent "
    "before.",
    what_to_do="'edgepaas sync' goes on sending them.",
    check="no-row-left",
)
SYNC_DEAD_LETTERS = _entry(
    "sync-dead-letters",
    origin="edgepaas-sync",
    severity="warning",
    what_happened="PostgreSQL refused rows of this box; they are kept there as dead letters.",
    what_to_do="'edgepaas sync dead-letters' lists what waits there; mend the cause and retry, "
    "or discard.",
    check="no-row-left",
)
SYNC_CONFLICTS = _entry(
    "sync-conflicts",
    origin="edgepaas-sync",
    severity="warning",
    what_happened="PostgreSQL had other values than rows of this box; what was overwritten or "
    "left out is kept there.",
    what_to_do="'edgepaas sync conflicts' lists them; settle each once what PostgreSQL has is "
    "right.",
    check="no-row-left",
)
SYNC_HUB_LOST = _entry(
    "sync-hub-lost",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="PostgreSQL lost rows that it had confirmed: it was restored from an older "
    "backup, or is another database (a warning where this box can send all of them again).",
    what_to_do="Look for the lost rows in other backups of PostgreSQL, then run 'edgepaas sync "
    "acknowledge'.",
    check="no-row-left",
    also=("warning",),
)
ACKNOWLEDGED_ROWS_LOST = _entry(
    "acknowledged-rows-lost",
    origin="service",
    severity="critical",
    what_happened="PostgreSQL went back in time while it served: rows that it had acknowledged are "
    "not there. It was restored, a standby that lagged was promoted, or it crashed with "
    "synchronous_commit off. A warning while the box sends them again from its journal.",
    what_to_do="Nothing where the box sends all of them again. Look for the others on the server "
    "that served before, or with the devices that sent them, then run 'edgepaas sync "
    "acknowledge'; writes go on meanwhile.",
    check="no-row-left",
    also=("warning",),
)
JOURNAL_UNREAD = _entry(
    "journal-unread",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="The journal of what PostgreSQL acknowledged cannot be read: what PostgreSQL "
    "lost of it is not sent again. The rows that wait on this box are delivered.",
    what_to_do="The message says why. Where another process has it, end that one ('fuser' shows "
    "it); where the disk answers with errors, copy the state folder to another disk. What was "
    "lost is sent as soon as the journal can be read.",
    check="journal-read",
)
AUDIT_DISCREPANCY = _entry(
    "audit-discrepancy",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="The audit that runs by itself found rows that are not in PostgreSQL as this box "
    "wrote them (a warning where all of them could be sent again).",
    what_to_do="'edgepaas audit --deep' names them. Find out who changes or deletes rows there; "
    "what is in order so is acknowledged with 'edgepaas audit --acknowledge'.",
    check="audit-adds-up",
    also=("warning",),
)
STATE_LOST = _entry(
    "state-lost",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="The state folder of this box, or the SQLite file in it, was deleted, and "
    "with it the rows that waited there (a warning where none did).",
    what_to_do="Bring the folder back from a backup, or look for the rows with the devices or "
    "people that sent them; then run 'edgepaas sync acknowledge'.",
    check="state-loss-known",
    also=("warning",),
)
SYNC_FORK = _entry(
    "sync-fork",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="The SQLite file was cloned or set back; it goes on as a stream of its own.",
    what_to_do="See that no two boxes run with a copy of one file, then look at 'edgepaas sync "
    "conflicts'.",
)
NODE_TWICE = _entry(
    "node-twice",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="Two boxes send heartbeats under one node id: a card or a state folder was "
    "copied.",
    what_to_do="On one of them, stop EdgePaaS, delete state/node.json and start it again: it "
    "gets an id of its own and sends its rows under that.",
    check="node-id-unique",
)
_MISCONFIGURED_ADVICE = (
    "The rows wait on this box, and nothing is lost: 'edgepaas sync status' says how many, "
    "'edgepaas doctor' looks for causes."
)
HUB_MISCONFIGURED = _entry(
    "hub-misconfigured",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="Rows cannot be delivered: PostgreSQL refuses the login, the database or the "
    "permissions.",
    what_to_do=_MISCONFIGURED_ADVICE,
    check="postgresql-takes-rows",
)
HUB_SCHEMA = _entry(
    "hub-schema",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="Rows cannot be delivered: the tables of PostgreSQL do not fit them.",
    what_to_do=_MISCONFIGURED_ADVICE,
    check="postgresql-takes-rows",
)
HUB_RIGHTS = _entry(
    "hub-rights",
    origin="schema",
    severity="warning",
    what_happened="This box's role may not change PostgreSQL's schema, so that a part of what this "
    "release brings is lacking there. The box works as it did with the release before.",
    what_to_do="Run what 'edgepaas schema --sql' prints as the owner of the tables (psql -f); "
    "the box finds it within an hour, or at once with 'edgepaas schema --hub'.",
    check="hub-schema-complete",
)
HUB_REVISION_WAITS = _entry(
    "hub-revision-waits",
    origin="schema",
    severity="warning",
    what_happened="A revision of PostgreSQL has waited for more than an hour for rows that it "
    "would break, on this box or on others. Everything goes on with the tables as they are.",
    what_to_do="Let the boxes that are named send their rows, or upgrade them: it goes on by "
    "itself then. 'edgepaas nodes forget' takes out a box that is gone for good.",
    check="hub-schema-complete",
)
HUB_TROUBLE = _entry(
    "hub-trouble",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="Rows cannot be delivered: PostgreSQL answers with an error.",
    what_to_do=_MISCONFIGURED_ADVICE,
    check="postgresql-takes-rows",
)
HUB_AWAY = _entry(
    "hub-away",
    origin="edgepaas-sync",
    severity="warning",
    what_happened="PostgreSQL has been away for an hour, rows wait, and SQLite serves by choice.",
    what_to_do="See that it comes back, and that DATABASE_URL still names it with the right "
    "password; nothing is lost.",
    check="postgresql-takes-rows",
)
SYNC_FILE = _entry(
    "sync-file",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="Rows cannot be delivered: the SQLite file is damaged, or a newer release "
    "wrote its outbox.",
    what_to_do="The next start examines a damaged one and brings what can be read into a fresh "
    "file; 'edgepaas doctor' looks for causes. One of a newer release keeps its rows, and the "
    "box takes writes: install that release again, which sends them.",
    check="postgresql-takes-rows",
)
SYNC_FAILED = _entry(
    "sync-failed",
    origin="edgepaas-sync",
    severity="critical",
    what_happened="The drainer failed of an error that it does not know, and starts again.",
    what_to_do="Rows wait on the box until then; send the log of edgepaas-sync to the maintainer.",
    check="postgresql-takes-rows",
)

# -- The machine --

CPU_BUSY = _entry(
    "system:cpu",
    origin="service",
    severity="warning",
    what_happened="The processor has been busy beyond CPU_THRESHOLD for two minutes.",
    what_to_do="'top' shows what works.",
    check="watched-and-well",
)
MEMORY_USED = _entry(
    "system:memory",
    origin="service",
    severity="warning",
    what_happened="The memory has been used beyond MEMORY_THRESHOLD for a minute.",
    what_to_do="'top' (then M) shows who has it; a process that grows for ever needs a restart.",
    check="watched-and-well",
)
DISK_USED = _entry(
    "system:disk",
    origin="service",
    severity="critical",
    what_happened="The disk of the state folder has been used beyond DISK_THRESHOLD for half a "
    "minute.",
    what_to_do="'du -xh / | sort -h | tail' shows what fills it; old logs and copies may go.",
    check="watched-and-well",
)
TEMPERATURE_HIGH = _entry(
    "system:temperature",
    origin="service",
    severity="critical",
    what_happened="The hottest sensor has been beyond TEMPERATURE_THRESHOLD for a minute.",
    what_to_do="Look at the fan, the dust and the sun; the box slows down, then switches off.",
    check="watched-and-well",
)
CLOCK_UNTRUSTED = _entry(
    "system:clock",
    origin="service",
    severity="warning",
    what_happened="No time server has set the clock for a quarter of an hour.",
    what_to_do="Moments of readings and alerts may be wrong: 'timedatectl' shows why; a time "
    "server must be reachable, or the clock set by hand.",
    check="watched-and-well",
)
REQUIRED_SERVICE = _entry(
    "service:*",
    origin="service",
    severity="critical",
    what_happened="A service that is listed as required is away.",
    what_to_do="See to it, or do not list it as required.",
    check="watched-and-well",
)
HEALTH_CHECK = _entry(
    "check:*",
    origin="service",
    severity="critical",
    what_happened="A required health check fails.",
    what_to_do="'edgepaas doctor' looks for causes.",
    check="watched-and-well",
)

CERTIFICATE_ENDS = _entry(
    "certificate-ends",
    origin="service",
    severity="warning",
    what_happened="A certificate on the way to PostgreSQL ends within 30 days, or has ended: the "
    "server's, the CA's or the box's own.",
    what_to_do="Renew the one that is named. Once it has ended PostgreSQL cannot be used where the "
    "link is verified, and SQLite serves.",
    check="watched-and-well",
)

TASK = _entry(
    "task:*",
    origin="service",
    severity="critical",
    what_happened="A thread of the service fails again and again, has ended, or is late.",
    what_to_do="'edgepaas doctor' looks for causes, and the log has the traceback.",
    check="watched-and-well",
    also=("info", "warning"),
)

# -- Alerting itself --

#: Counted by the spool where it had no room for the alerts themselves; never raised by a call.
ALERTS_WITHOUT_ROOM = _entry(
    "alerts-without-room",
    origin="edgepaas-alerts",
    severity="warning",
    what_happened="Alerts were raised faster than they could be delivered, and the spool had no "
    "room for them (ALERT_SPOOL_FILES, ALERT_SPOOL_SIZE).",
    what_to_do="The journal holds what they said.",
)

#: Every entry, in the order in which docs/alerts.md lists them.
CATALOGUE = tuple(_entries)


def find_entry(
    fingerprint: str, entries: Iterable[CatalogueEntry] = CATALOGUE
) -> CatalogueEntry | None:
    """Return the entry of *fingerprint*; None for an application's or one raised by hand."""
    return next((entry for entry in entries if entry.covers(fingerprint)), None)
