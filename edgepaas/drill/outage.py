# SPDX-License-Identifier: Apache-2.0
"""The rehearsal itself: cut, kill, fill, heal, and count what became of every row."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from edgepaas.drill.count import Tally, tally
from edgepaas.drill.load import Filling, Load
from edgepaas.drill.place import Place, Server
from edgepaas.drill.relay import Relay
from edgepaas.drill.scratch import DrillFailed, ScratchBox
from edgepaas.sync.errors import as_hub_error

#: What the scratch box's SQLite file may take, so that filling it takes seconds.
BUDGET = "8M"

_START_WITHIN = 60.0
_FALLBACK_WITHIN = 45.0
_FILL_WITHIN = 60.0
_ON_SQLITE = ("fallback", "draining")

#: What can be done to a box, in this order.
SITUATIONS = ("refused", "silent", "full")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How long things last, in seconds."""

    #: How long devices write in each situation.
    seconds: float = 5.0
    devices: int = 2
    #: How long the box may take to be back on PostgreSQL.
    home_within: float = 120.0
    #: What is done to the box between its start and the counting.
    situations: tuple[str, ...] = SITUATIONS


@dataclass(frozen=True)
class Step:
    """One thing that was done to the box, and whether the box stood it."""

    name: str
    ok: bool
    seconds: float
    message: str


@dataclass
class Report:
    """What the drill found."""

    steps: list[Step] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    #: What 'edgepaas audit --deep --json' of the scratch box said, and its exit status.
    audit: dict[str, Any] = field(default_factory=dict)
    audit_status: int = -1
    #: Requests that the devices had to repeat.
    repeated: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every step was stood, everything was counted, and it all adds up."""
        return (
            bool(self.steps)
            and all(step.ok for step in self.steps)
            and self.tally.sound
            and self.tally.acknowledged > 0
            and self.audit_status == 0
            and not self.problems
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {
            "passed": self.passed,
            "steps": [asdict(step) for step in self.steps],
            "figures": {**asdict(self.tally), "repeated": self.repeated},
            "audit_status": self.audit_status,
            "audit": self.audit,
            "problems": self.problems,
        }


class Outage:
    """One drill on *box*, whose rows go through *relay* to *place* on *server*."""

    def __init__(
        self,
        server: Server,
        place: Place,
        *,
        box: ScratchBox,
        relay: Relay,
        plan: Plan,
        tell: Tell,
    ) -> None:
        self._server = server
        self._place = place
        self._box = box
        self._relay = relay
        self._plan = plan
        self._tell = tell
        self._report = Report()
        self._load = Load(box, plan.devices)
        self._filling = Filling(box)

    def run(self) -> Report:
        """Do everything and count; what fails is in the report, and the counting still done."""
        self._box.configure(
            self._place.address(self._server),
            self._server.tls,
            self._relay.port,
            DISK_BUDGET=BUDGET,
        )
        stood = self._step("start", "the scratch box serves from PostgreSQL", self._start)
        try:
            for name, what, does in (  # all of SITUATIONS
                ("refused", "PostgreSQL refuses, SQLite takes over, and hands back", self._refused),
                ("silent", "PostgreSQL falls silent; service and sync are killed", self._silent),
                ("full", "the disk budget is used up while PostgreSQL is away", self._full),
            ):
                if name in self._plan.situations:
                    stood = stood and self._step(name, what, does)
        finally:
            self._load.stop()
        self._relay.heal()
        self._step("home", "every row is in PostgreSQL", self._home)
        self._step("count", "PostgreSQL and the ledger are counted", self._count)
        self._report.problems += self._load.problems
        self._report.repeated = sum(device.repeated for device in self._load.devices)
        return self._report

    # -- what is done to the box --

    def _start(self) -> str:
        self._box.start()
        self._until_mode("primary", _START_WITHIN)
        self._load.start()
        self._write()
        return f"{self._load.acknowledged} readings acknowledged"

    def _refused(self) -> str:
        seconds = self._lose("refuse")
        self._write()
        return f"on SQLite after {seconds:.1f} s, {self._return()}"

    def _silent(self) -> str:
        seconds = self._lose("silent")
        service = self._box.kill("service")
        self._until_mode(_ON_SQLITE, _FALLBACK_WITHIN)
        self._write()
        drainer = self._box.kill("sync")
        self._write()
        killed = f"killed service {service} and sync {drainer}"
        return f"on SQLite after {seconds:.1f} s, {killed}, {self._return()}"

    def _full(self) -> str:
        self._lose("refuse")
        if not self._filling.until_full(_FILL_WITHIN):
            raise DrillFailed(
                f"with DISK_BUDGET={BUDGET} the box took {self._filling.acknowledged} readings "
                "while PostgreSQL was away, and never said 507"
            )
        status, _ = self._box.request("GET", "/api/v1/readings?limit=1")
        if status != 200:
            raise DrillFailed(f"a full box has to answer reads; it answered {status}")
        status, document = self._box.request("GET", "/health/ready")
        if status != 200 or document["state"] != "full":
            raise DrillFailed(f"a full box has to be ready and say 'full'; it said {document}")
        filled = f"507 after {self._filling.acknowledged} more readings, reads still answered"
        return f"{filled}, {self._return()}"

    def _home(self) -> str:
        self._box.until("the last row's way home", self._plan.home_within, self._nothing_waits)
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
            with self._server.session(self._place.address(self._server)) as connection:
                report.tally = tally(connection, self._load.devices, self._filling)
        except Exception as error:
            # Whatever kept it from being counted, it is no pass, and the rest is still told.
            raise DrillFailed(str(as_hub_error(error, "counting"))) from error
        if not report.tally.sound:
            raise DrillFailed(
                f"{report.tally.lost} lost, {report.tally.doubled} doubled, "
                f"{report.tally.invented} never sent, {report.tally.out_of_order} out of order"
            )
        return f"{report.tally.in_postgres} readings there, each once and in order"

    # -- the steps' parts --

    def _step(self, name: str, what: str, does: Callable[[], str]) -> bool:
        self._tell(f"{name}: {what} …")
        began = time.monotonic()
        try:
            message, ok = does(), True
        except DrillFailed as failure:
            message, ok = str(failure), False
        seconds = round(time.monotonic() - began, 1)
        self._report.steps.append(Step(name, ok, seconds, message))
        self._tell(f"{name}: {'ok' if ok else 'FAILED'} after {seconds:g} s: {message}")
        return ok

    def _lose(self, how: Any) -> float:
        began = time.monotonic()
        self._relay.cut(how)
        self._until_mode(_ON_SQLITE, _FALLBACK_WITHIN)
        return time.monotonic() - began

    def _return(self) -> str:
        began = time.monotonic()
        self._relay.heal()
        self._until_mode("primary", self._plan.home_within)
        seconds = time.monotonic() - began
        self._write()
        return f"back on PostgreSQL {seconds:.1f} s after its return"

    def _until_mode(self, wanted: str | tuple[str, ...], limit: float) -> None:
        modes = (wanted,) if isinstance(wanted, str) else wanted
        what = f"a box that is ready in {' or '.join(modes)}"
        self._box.until(what, limit, lambda: self._box.mode() in modes)

    def _write(self) -> None:
        """Let the devices write; there has to be an acknowledgement, or nothing is tried."""
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
