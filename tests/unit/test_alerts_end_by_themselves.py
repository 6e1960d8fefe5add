# SPDX-License-Identifier: Apache-2.0
"""What no longer holds is resolved by the running box, whichever process or release raised it."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import pytest

from edgepaas.alerts import raise_alert
from edgepaas.alerts.catalogue import (
    CATALOGUE,
    FALLBACK_NOT_READY,
    HUB_REVISION_WAITS,
    NOT_CAPTURED,
    SALVAGE_FAILED,
)
from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.alerts.conditions.review import find_ended
from edgepaas.alerts.delivery.run import deliver_once
from edgepaas.cli import main
from edgepaas.decision.contract import DatabaseContract, FinalMode
from edgepaas.decision.decide import Decision, store_decision
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths
from edgepaas.health.checks import CheckResult
from edgepaas.health.state import StateBoard
from edgepaas.health.system import Measure, SystemReport
from edgepaas.outbox.forwarding_state import Forwarding
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.stream import Stream
from edgepaas.outcomes.causes import Cause, Refusal
from edgepaas.outcomes.refused_tables import add_refused, remove_refused
from edgepaas.schema.hub_conditions import note_hub_conditions
from edgepaas.schema.open_problems import (
    clear_problem,
    clear_refusal,
    record_problem,
    record_refusal,
)
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.stage import prepare_database
from edgepaas.service.watches.condition_checks import ServiceChecks
from edgepaas.service.watches.conditions import LOOK_EVERY, ConditionWatch
from edgepaas.settings import Settings
from edgepaas.sync.audit.record import AuditRecord, write_audit
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.hub.heartbeat import CHECKS_ALONE, Heartbeat, LocalNode, NodeState
from edgepaas.sync.losses.acknowledge import acknowledge_rows
from edgepaas.sync.losses.lost_state import forget_losses, look
from edgepaas.telemetry import application as telemetry
from edgepaas.timing.link import Link
from edgepaas.timing.moment import current_moment
from tests.support.telemetry_box import contract_for

URL = "postgresql://hub/edge"
FORWARDS = Forwarding("idle", "ok", 0)


class Nodes:
    """PostgreSQL as the heartbeat sees it; *others* is what each look finds, else our own."""

    def __init__(self) -> None:
        self.link = Link()
        self.others: list[str] = []

    def query(self, sql: str, *_: object) -> list[list[object]]:
        found = (self.others.pop(0) if self.others else "ours") if "clock_timestamp" in sql else ""
        return [[0.0, found, 0, 0]]


@dataclass
class Box:
    """A box whose circumstances a test sets; *forwarding* None: no PostgreSQL is configured."""

    paths: Paths
    state: str = ""
    mode: FinalMode | None = None
    settings: dict[str, str] = field(default_factory=dict)
    forwarding: Forwarding | None = None
    checks: list[CheckResult] = field(
        default_factory=lambda: [CheckResult("spool", True, "", 0.1, True)]
    )
    measures: list[Measure] = field(default_factory=list)
    clock_trusted: bool | None = None
    noted: list[str] = field(default_factory=list)
    nodes: Nodes = field(default_factory=Nodes)

    @property
    def contract(self) -> DatabaseContract:
        found = contract_for(self.paths, URL if self.state == "primary" else None, self.state)
        return replace(found, final_db_mode=self.mode) if self.mode else found

    def report(self) -> SystemReport:
        return SystemReport(tuple(self.measures), self.clock_trusted, "")

    def run_service(self, hours: float = 2.0) -> None:
        """Start the service, and let it run for some hours."""
        now = 1000.0
        board = StateBoard(self.contract)
        for key in self.noted:
            board.note(key, "noted by a test")
        watch = ConditionWatch(
            meter=self,
            checks=lambda: self.checks,
            forwarding=lambda: self.forwarding,
            raised_fingerprints=partial(raised_fingerprints, self.paths),
            condition_checks=ServiceChecks(
                self.paths,
                Settings.of(**self.settings),
                self.contract,
                lambda: self.forwarding,
                board,
            ).by_name(),
            clock=lambda: now,
        )
        for _ in range(int(hours * 3600 / LOOK_EVERY)):
            now += LOOK_EVERY
            watch.look()

    def run_schema_stage(self) -> None:
        prepare_database(self.contract, Settings.of(), self.paths, telemetry)

    def run_decision(self) -> None:
        store_decision(Decision(self.contract, None, False, current_moment()), self.paths)

    def run_environment_stage(self) -> None:
        assert main(["env"]) == 0

    def run_drainer(self) -> None:
        """Send heartbeats for a while, as a drainer does that has just started."""
        now = 0.0
        node = LocalNode("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "here", "1", "1", "ours")
        heartbeat = Heartbeat(node, 15.0, clock=lambda: now)
        for _ in range(CHECKS_ALONE + 5):
            now += 15.0
            heartbeat.send(cast(Hub, self.nodes), NodeState("primary", 0, None))

    def raised(self) -> list[str]:
        return [c["fingerprint"] for c in list_conditions(self.paths) if c["state"] == "raised"]


Step = Callable[[Box], object]


def put(**values: object) -> Step:
    """A step that changes the box's circumstances."""

    def step(box: Box) -> None:
        for name, value in values.items():
            setattr(box, name, value)

    return step


def nothing(_: Box) -> None:
    """Nothing is to be done: the cause is gone with the process that raised it."""


@dataclass(frozen=True)
class Scenario:
    """*cause* has the condition hold (None: it never does in a box that runs), *end* ends that."""

    fingerprint: str
    cause: Step | None
    end: Step
    who: Step = Box.run_service


def hub_report(*, reservation: str = "", waiting: str = "") -> Step:
    """What a run on PostgreSQL left open, long after it was found first."""

    def note(box: Box) -> None:
        box.state, box.forwarding = "fallback", FORWARDS
        report = SchemaReport(
            "postgresql", "nothing", (), (), "at 2", reservation=reservation, waiting=waiting
        )
        note_hub_conditions(box.paths, report)
        if waiting:
            HUB_REVISION_WAITS.raise_alert("an hour later")

    return note


def without_a_hub(box: Box) -> None:
    box.state, box.forwarding = "standalone", None


def settings_file(text: str) -> Step:
    return lambda box: box.paths.env_file.write_text(text)


def file_of_rows(box: Box) -> None:
    with closing(sqlite3.connect(box.paths.sqlite)) as connection:
        connection.execute("CREATE TABLE readings (value TEXT)")
        connection.execute("INSERT INTO readings VALUES (?)", ("x" * 3_000_000,))
        connection.commit()
    box.settings = {"DISK_BUDGET": "4MiB"}


def unreadable_journal(box: Box) -> None:
    journal_path(box.paths.sqlite).write_bytes(b"no database at all" * 1000)


def quarantine(box: Box) -> None:
    folder = box.paths.quarantine / "20260101T000000Z"
    folder.mkdir(parents=True)
    (folder / "edgepaas.db").write_bytes(b"rows")


#: There is a PostgreSQL, and it takes rows.
HUB_WELL = {"forwarding": FORWARDS}


def refused_writes(box: Box) -> None:
    box.forwarding = FORWARDS
    add_refused(box.paths.refused_tables, [Refusal("readings", Cause.RIGHTS, "no right")])


def writes_accepted(box: Box) -> None:
    remove_refused(box.paths.refused_tables, ["readings"])


def used_by_another(box: Box) -> None:
    """Have the file bear another application's name, and hold a row of it."""
    box.run_schema_stage()
    with contextlib.closing(sqlite3.connect(box.paths.sqlite, isolation_level=None)) as file:
        file.execute("CREATE TABLE notes (id TEXT)")
        file.execute("INSERT INTO notes VALUES ('n')")
        file.execute("UPDATE edgepaas_applications SET name = 'another'")


def without_the_file(box: Box) -> None:
    for file in (box.paths.sqlite, *box.paths.state.glob("edgepaas.db-*")):
        file.unlink(missing_ok=True)


def counts(**left: int) -> Step:
    return put(forwarding=replace(FORWARDS, **left))  # type: ignore[arg-type]


def problem(entry: CatalogueEntry) -> Scenario:
    return Scenario(
        entry.pattern,
        lambda box: record_problem(box.paths, "it did not work", entry),
        lambda box: clear_problem(box.paths),
    )


def measured(name: str, unit: str) -> Scenario:
    def at(value: float | None) -> Step:
        return put(measures=[Measure(name, value, unit, 90)])  # type: ignore[arg-type]

    return Scenario(f"system:{name}", at(95.0), at(20.0))


def undeliverable(name: str, **wrong: object) -> list[Scenario]:
    cause = put(forwarding=replace(FORWARDS, rows_waiting=3, **wrong))  # type: ignore[arg-type]
    ends = (put(forwarding=FORWARDS), put(forwarding=None))
    return [Scenario(name, cause, end) for end in ends]


def counted(name: str, **left: int) -> list[Scenario]:
    return [Scenario(name, counts(**left), end) for end in (counts(), put(forwarding=None))]


def audited(left: int, **counts: int) -> Step:
    """An audit has left so many rows open."""

    def write(box: Box) -> None:
        box.forwarding = FORWARDS
        found = [
            {"table": "readings", "key": f"k{n}", "parts": [], "kind": "differs"}
            for n in range(left)
        ]
        write_audit(box.paths, AuditRecord(counts=counts, open=found))

    return write


def lose_state(box: Box) -> None:
    """The file of the box is another one than before."""
    for stream_id in ("s1", "s2"):
        stream = Stream("n", stream_id, "", 0, 0, "", "", 0, 0)
        look(box.paths, node_identity(box.paths), stream, before=(), replaced=False)


def acknowledge_loss(box: Box) -> None:
    assert forget_losses(box.paths) == 1


def acknowledge_row(box: Box) -> None:
    assert acknowledge_rows(box.paths, {"readings": ["k0"]}) == 1


def broken(name: str) -> Step:
    return put(checks=[CheckResult(name, False, "", 0.1, True)])


SCENARIOS = [
    Scenario(
        "settings:DATABASE_URL",
        settings_file("DATABASE_URL=postgresql://hub:port/edge\n"),
        settings_file("DATABASE_URL=postgresql://hub/edge\n"),
        Box.run_environment_stage,
    ),
    Scenario("unit env", nothing, lambda box: box.paths.env_contract.write_text("")),
    Scenario("unit dbdecide", nothing, lambda box: box.paths.db_contract.write_text("")),
    Scenario("unit schema", nothing, lambda box: box.paths.db_contract.write_text("")),
    Scenario("unit serve", None, nothing),
    *(
        Scenario(
            "unit sync", put(forwarding=Forwarding("unknown", "unknown", 0)), put(forwarding=end)
        )
        for end in (FORWARDS, None)
    ),
    Scenario("service-start", None, nothing),
    Scenario("database-fallback", put(state="fallback"), put(state="primary"), Box.run_decision),
    Scenario("database-fallback", put(state="fallback"), put(state="primary")),
    Scenario("database-lost", put(noted=["database"]), put(noted=[])),
    Scenario("database-lost", put(state="fallback"), put(state="standalone")),
    Scenario("postgres-unusable", put(state="fallback"), put(state="primary")),
    Scenario("postgres-unusable", put(state="fallback"), put(state="local-first")),
    Scenario("writes-refused:readings", refused_writes, writes_accepted),
    Scenario(
        "writes-refused:readings", put(noted=["writes:readings:write"], **HUB_WELL), put(noted=[])
    ),
    *undeliverable("writes-refused:readings", state="blocked", hub="misconfigured"),
    Scenario("sqlite-foreign", used_by_another, without_the_file, Box.run_schema_stage),
    Scenario("sqlite-foreign", nothing, put(state="primary", mode="postgres_only")),
    Scenario("sqlite-unmigrated", None, nothing, Box.run_schema_stage),
    Scenario("sqlite-unmigrated", nothing, put(state="primary", mode="postgres_only")),
    Scenario(
        "schema-refused",
        lambda box: record_refusal(box.paths, "a migration fails", ""),
        Box.run_schema_stage,
    ),
    Scenario(
        "schema-refused",
        lambda box: record_refusal(box.paths, "a migration fails", ""),
        lambda box: clear_refusal(box.paths),
    ),
    Scenario("sqlite-replaced", quarantine, lambda box: shutil.rmtree(box.paths.quarantine)),
    *map(problem, (NOT_CAPTURED, FALLBACK_NOT_READY, SALVAGE_FAILED)),
    Scenario("disk-budget", file_of_rows, put(settings={"DISK_BUDGET": "100MiB"})),
    Scenario("disk-budget", file_of_rows, lambda box: box.paths.sqlite.unlink()),
    Scenario("rows-shed", file_of_rows, put(settings={"DISK_BUDGET": "100MiB"})),
    Scenario("journal-unusable", put(noted=["journal"], state="primary"), put(noted=[])),
    Scenario("journal-unusable", put(noted=["journal"], state="primary"), put(state="fallback")),
    Scenario("journal-in-use", put(noted=["journal"], state="primary"), put(noted=[])),
    Scenario(
        "journal-unread", unreadable_journal, lambda box: journal_path(box.paths.sqlite).unlink()
    ),
    *counted("rows-not-in-postgres", rows_waiting=3),
    *counted("rows-left-behind", rows_waiting=3),
    *counted("sync-dead-letters", dead_letters=3),
    *counted("sync-conflicts", conflicts=3),
    *counted("sync-hub-lost", hub_lost=3),
    *counted("acknowledged-rows-lost", hub_lost=3),
    *undeliverable("hub-misconfigured", state="blocked", hub="misconfigured"),
    *undeliverable("hub-schema", state="blocked", hub="schema"),
    *undeliverable("hub-trouble", state="blocked", hub="error"),
    *undeliverable("hub-away", state="held", hub="away"),
    *undeliverable("sync-file", state="blocked", hub="ok"),
    *undeliverable("sync-failed", state="unknown", hub="unknown"),
    Scenario(
        "node-twice",
        lambda box: box.nodes.others.extend(["theirs"] * 10),
        lambda box: box.nodes.others.clear(),
        Box.run_drainer,
    ),
    Scenario(
        "hub-not-captured",
        put(state="primary", noted=["hub-capture"]),
        put(noted=[]),
    ),
    Scenario(
        "hub-not-captured",
        put(state="primary", noted=["hub-capture"]),
        put(state="fallback"),
    ),
    Scenario("hub-rights", hub_report(reservation="no right"), hub_report()),
    Scenario("hub-revision-waits", hub_report(waiting="revision 0002 waits"), hub_report()),
    Scenario("hub-revision-waits", hub_report(waiting="revision 0002 waits"), without_a_hub),
    Scenario("node-twice", put(forwarding=FORWARDS), put(forwarding=None)),
    Scenario("audit-discrepancy", audited(1), audited(0)),
    Scenario("audit-discrepancy", audited(1), put(forwarding=None)),
    Scenario(
        "audit-discrepancy",
        audited(1),
        acknowledge_row,
    ),
    Scenario(
        "audit-discrepancy",
        audited(0, queued_again=2),
        audited(0),
    ),
    Scenario("state-lost", lose_state, acknowledge_loss),
    measured("cpu", "percent"),
    measured("memory", "percent"),
    measured("disk", "percent"),
    measured("temperature", "celsius"),
    Scenario(
        "system:temperature",
        put(measures=[Measure("temperature", 95.0, "celsius", 80)]),
        put(measures=[Measure("temperature", None, "celsius", 80)]),
    ),
    Scenario("system:clock", put(clock_trusted=False), put(clock_trusted=True)),
    Scenario("service:broker", broken("service broker"), broken("service other")),
    Scenario("check:spool", broken("spool"), broken("other")),
    Scenario("certificate-ends", broken("certificates"), broken("other")),
    Scenario("task:gone", None, nothing),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.fingerprint)
def test_a_condition_is_resolved_when_its_cause_is_gone_and_not_before(
    paths: Paths, scenario: Scenario
) -> None:
    box = Box(paths)
    raise_alert("by an earlier release", severity="critical", fingerprint=scenario.fingerprint)
    if scenario.cause is not None:
        scenario.cause(box)
        scenario.who(box)
        assert scenario.fingerprint in box.raised()
    scenario.end(box)
    scenario.who(box)
    assert scenario.fingerprint not in box.raised()


def test_every_condition_of_the_catalogue_has_such_a_scenario() -> None:
    missing = [
        entry.pattern
        for entry in CATALOGUE
        if entry.kind == "condition"
        and not any(entry.covers(scenario.fingerprint) for scenario in SCENARIOS)
    ]
    assert not missing


EVENTS = [entry for entry in CATALOGUE if entry.kind == "event"]


@pytest.mark.parametrize("entry", EVENTS, ids=lambda entry: entry.pattern)
def test_an_event_is_over_once_it_was_delivered(paths: Paths, entry: CatalogueEntry) -> None:
    entry.raise_alert("it happened")
    assert Box(paths).raised() == []
    assert raised_fingerprints(paths, "") == []
    deliver_once(paths, linger=0.0)
    assert list_conditions(paths) == []
    (known,) = list_conditions(paths, everything=True)
    assert known["message"].startswith("it happened. ")
    assert known["severity"] == entry.severity


@pytest.mark.parametrize("entry", EVENTS, ids=lambda entry: entry.pattern)
def test_an_event_that_an_earlier_release_left_open_is_resolved(
    paths: Paths, entry: CatalogueEntry
) -> None:
    raise_alert("by an earlier release", severity="critical", fingerprint=entry.pattern)
    box = Box(paths)
    assert box.raised() == [entry.pattern]
    box.run_service(hours=0.1)
    assert box.raised() == []


def test_what_an_application_or_a_person_raised_is_left_to_them(paths: Paths) -> None:
    raise_alert("the pump stands still", severity="critical", fingerprint="rule:pump:1")
    box = Box(paths)
    box.run_service()
    assert box.raised() == ["rule:pump:1"]


def test_a_check_that_fails_keeps_its_condition_and_holds_up_no_other() -> None:
    def fails(_: str) -> str:
        raise OSError("the disk is gone")

    checks = {"budget-kept": fails, "service-runs": lambda _: "the service runs"}
    found = list(find_ended(["disk-budget", "service-start"], checks))
    assert [ended.fingerprint for ended in found] == ["service-start"]


def test_a_fallback_file_that_was_migrated_again_ends_the_alert(paths: Paths) -> None:
    """The schema stage looks after the file also while PostgreSQL serves."""
    from edgepaas.hosting.loading import metadata_of
    from edgepaas.schema.chain import chain_of
    from edgepaas.schema.stage import _Stage

    raise_alert("by an earlier run", severity="warning", fingerprint="sqlite-unmigrated")
    contract = replace(contract_for(paths, URL), hub_url=URL)
    chain = chain_of(telemetry)
    stage = _Stage(contract, Settings.of(), paths, chain, lambda: metadata_of(telemetry))
    stage._prepare_fallback(stage._publish())
    assert Box(paths).raised() == []
