# SPDX-License-Identifier: Apache-2.0
"""What no longer holds is resolved by the running box, whichever process or release raised it."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest

from edgepaas.alerts import raise_alert
from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.health.checks import CheckResult
from edgepaas.health.system import SystemReport
from edgepaas.service.watches.conditions import LOOK_EVERY, ConditionWatch
from edgepaas.settings import Settings
from tests.support.telemetry_box import contract_for


class Meter:
    def report(self) -> SystemReport:
        return SystemReport(measures=(), clock_trusted=None, clock_message="")


def run_for(paths: Paths, contract: DatabaseContract, settings: Settings, seconds: float) -> None:
    now = [1000.0]
    watch = ConditionWatch(
        meter=Meter(),
        checks=lambda: [CheckResult("spool", True, "", 0.1, True)],
        raised_fingerprints=partial(raised_fingerprints, paths),
        clock=lambda: now[0],
    )
    for _ in range(int(seconds / LOOK_EVERY)):
        now[0] += LOOK_EVERY
        watch.look()


@pytest.mark.parametrize(
    "fingerprint",
    ["disk-budget", "sync-fork", "node-twice", "sqlite-rebuilt", "rows-lost-in-damage",
     "quarantine-pruned", "rows-shed", "hub-misconfigured", "unit sync", "postgres-unusable"],
)  # fmt: skip
def test_it(paths: Paths, fingerprint: str) -> None:
    raise_alert("raised by an earlier release", severity="critical", fingerprint=fingerprint)
    with closing(open_sqlite(paths.sqlite, create=True)) as connection:
        connection.execute("CREATE TABLE a (b)")
    run_for(paths, contract_for(paths, None), Settings.of(), 7200)
    assert [c["fingerprint"] for c in list_conditions(paths) if c["state"] == "raised"] == []
