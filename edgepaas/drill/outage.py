# SPDX-License-Identifier: Apache-2.0
"""The steps of an outage drill: cut, kill, fill, heal, and count every row at the end."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from edgepaas.drill.count import RowCounts, count_rows
from edgepaas.drill.load import BulkDevice, DeviceLoad
from edgepaas.drill.relay import Relay
from edgepaas.drill.scratch_box import DrillFailed, ScratchBox
from edgepaas.drill.scratch_database import ScratchDatabase, Server
from edgepaas.sync.errors import as_hub_error

#: The disk budget of the scratch box, small enough to be filled in seconds.
BUDGET = "8M"

_START_WITHIN = 60.0
_FALLBACK_WITHIN = 45.0
_FILL_WITHIN = 60.0
_ON_SQLITE = ("fallback", "draining")

#: The situations that the box is put into, in this order.
SITUATIONS = ("refused", "silent", "full")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class DrillPlan:
    """What the drill does and how long, in seconds."""

    #: How long the devices write in each situation.
    seconds: float = 5.0
    devices: int = 2
    #: How long the box may take to be back on PostgreSQL.
    return_within: float = 120.0
    #: Which of SITUATIONS to go through.
    situations: tuple[str, ...] = SITUATIONS


@dataclass(frozen=True)
class Step:
    """One step, and whether the box passed it."""

    name: str
    ok: bool
    seconds: float
    message: str


@dataclass
class DrillReport:
    """The result of a drill."""

    steps: list[Step] = field(default_factory=list)
    counts: RowCounts = field(default_factory=RowCounts)
    #: The output and exit status of 'edgepaas audit --deep --json' on the scratch box.
    audit: dict[str, Any] = field(default_factory=dict)
    audit_status: int = -1
    #: Requests that the devices had to repeat.
    repeated: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every step passed, every row was counted, and the ledger adds up."""
        return (
            bool(self.steps)
            and all(step.ok for step in self.steps)
            and self.counts.complete
            and self.counts.acknowledged > 0
            and self.audit_status == 0
            and not self.problems
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {
            "passed": self.passed,
            "steps": [asdict(step) for step in self.steps],
            "figures": {**asdict(self.counts), "repeated": self.repeated},
            "audit_status": self.audit_status,
            "audit": self.audit,
            "problems": self.problems,
        }


class OutageDrill:
    """One drill on *box*, whose rows go through *relay* to *database* on *server*."""

    def __init__(
        self,
        server: Server,
        database: ScratchDatabase,
        *,
        box: ScratchBox,
        relay: Relay,
        plan: DrillPlan,
        progress: Progress,
    ) -> None:
        self._server = server
        self._database = database
        self._box = box
        self._relay = relay
        self._plan = plan
        self._progress = progress
        self._report = DrillReport()
        self._load = DeviceLoad(box, plan.devices)
        self._bulk = BulkDevice(box)

    def run(self) -> DrillReport:
        """Perform all steps; a step that fails is in the report, and rows are counted anyway."""
        self._box.configure(
            self._database.address(self._server),
            self._server.tls,
            self._relay.port,
            DISK_BUDGET=BUDGET,
        )
        passed = self._step("start", "the scratch box serves from PostgreSQL", self._start)
        try:
            for name, what, action in (  # all of SITUATIONS
                (
                    "refused",
                    "PostgreSQL refuses connections, SQLite takes over, and hands back",
                    self._refused,
                ),
                ("silent", "PostgreSQL does not answer; service and sync are killed", self._silent),
                ("full", "the disk budget is used up while PostgreSQL is away", self._full),
            ):
                if name in self._plan.situations:
                    passed = passed and self._step(name, what, action)
        finally:
            self._load.stop()
        self._relay.heal()
        self._step("drained", "every row is delivered to PostgreSQL", self._wait_drained)
        self._step(
            "count", "rows are counted in PostgreSQL, and the ledger is audited", self._count
        )
        self._report.problems += self._load.problems
        self._report.repeated = sum(device.repeated for device in self._load.devices)
        return self._report

    # -- the steps --

    def _start(self) -> str:
        self._box.start()
        self._until_mode("primary", _START_WITHIN)
        self._load.start()
        self._write()
        return f"{self._load.acknowledged} readings acknowledged"

    def _refused(self) -> str:
        seconds = self._cut("refuse")
        self._write()
        return f"on SQLite after {seconds:.1f} s, {self._return()}"

    def _silent(self) -> str:
        seconds = self._cut("silent")
        service = self._box.kill("service")
        self._until_mode(_ON_SQLITE, _FALLBACK_WITHIN)
        self._write()
        drainer = self._box.kill("sync")
        self._write()
        killed = f"killed service {service} and sync {drainer}"
        return f"on SQLite after {seconds:.1f} s, {killed}, {self._return()}"

    def _full(self) -> str:
        self._cut("refuse")
        if not self._bulk.until_full(_FILL_WITHIN):
            raise DrillFailed(
                f"with DISK_BUDGET={BUDGET} the box took {self._bulk.acknowledged} readings "
                "while PostgreSQL was unreachable, and never answered 507"
            )
        status, _ = self._box.request("GET", "/drill/readings")
        if status != 200:
            raise DrillFailed(f"a full box has to answer reads; it answered {status}")
        status, document = self._box.request("GET", "/health/ready")
        if status != 200 or document["state"] != "full":
            raise DrillFailed(
                f"a full box has to be ready in the state 'full'; it answered {document}"
            )
        filled = f"507 after {self._bulk.acknowledged} more readings, reads still answered"
        return f"{filled}, {self._return()}"

    def _wait_drained(self) -> str:
        self._box.until(
            "the delivery of the last row", self._plan.return_within, self._nothing_waits
        )
        return f"the queue is empty, {self._load.acknowledged} readings acknowledged"

    def _count(self) -> str:
        report = self._report
        status, printed = self._box.run("audit", "--deep", "--json")
        report.audit_status = status
        try:
            report.audit = json.loads(printed)
        except ValueError:
            report.problems.append(f"edgepaas audit ended with {status}: {printed.strip()[-300:]}")
        try:
            with self._server.session(self._database.address(self._server)) as connection:
                report.counts = count_rows(connection, self._load.devices, self._bulk)
        except Exception as error:
            # Whatever prevents the counting, the drill has failed, and the rest is still reported.
            raise DrillFailed(str(as_hub_error(error, "counting"))) from error
        if not report.counts.complete:
            raise DrillFailed(
                f"{report.counts.lost} lost, {report.counts.doubled} doubled, "
                f"{report.counts.invented} never sent, {report.counts.out_of_order} out of order"
            )
        return f"{report.counts.in_postgres} readings, each once and in order"

    # -- parts of steps --

    def _step(self, name: str, what: str, action: Callable[[], str]) -> bool:
        self._progress(f"{name}: {what} …")
        began = time.monotonic()
        try:
            message, ok = action(), True
        except DrillFailed as failure:
            message, ok = str(failure), False
        seconds = round(time.monotonic() - began, 1)
        self._report.steps.append(Step(name, ok, seconds, message))
        self._progress(f"{name}: {'ok' if ok else 'FAILED'} after {seconds:g} s: {message}")
        return ok

    def _cut(self, how: Any) -> float:
        began = time.monotonic()
        self._relay.cut(how)
        self._until_mode(_ON_SQLITE, _FALLBACK_WITHIN)
        return time.monotonic() - began

    def _return(self) -> str:
        began = time.monotonic()
        self._relay.heal()
        self._until_mode("primary", self._plan.return_within)
        seconds = time.monotonic() - began
        self._write()
        return f"back on PostgreSQL {seconds:.1f} s after its return"

    def _until_mode(self, wanted: str | tuple[str, ...], limit: float) -> None:
        modes = (wanted,) if isinstance(wanted, str) else wanted
        what = f"a box that is ready in {' or '.join(modes)}"
        self._box.until(what, limit, lambda: self._box.mode() in modes)

    def _write(self) -> None:
        """Let the devices write; at least one reading has to be acknowledged."""
        before = self._load.acknowledged
        time.sleep(self._plan.seconds)
        self._box.until(
            "an acknowledged reading", _FALLBACK_WITHIN, lambda: self._load.acknowledged > before
        )

    def _nothing_waits(self) -> bool:
        status, document = self._box.request("GET", "/health/ready")
        if status != 200:
            return False
        forwarding = document["forwarding"] or {}
        return document["mode"] == "primary" and forwarding.get("rows_waiting") == 0
