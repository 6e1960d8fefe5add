# SPDX-License-Identifier: Apache-2.0
"""The tables for whose sake PostgreSQL was given up: a write to each is rehearsed until it passes.

The drainer does it, which hands back. Until then it holds PostgreSQL: a box that is started
meanwhile would serve from it, and refuse every write for WRITE_PATIENCE again.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.alerts.catalogue import WRITES_REFUSED
from edgepaas.decision.hold import clear_hold, read_hold, write_hold
from edgepaas.outcomes.causes import KnownTable
from edgepaas.outcomes.fit import table_misfit
from edgepaas.outcomes.refused_tables import RefusedTable, read_refused, remove_refused
from edgepaas.outcomes.rehearsal import shown_refusal
from edgepaas.sync.errors import TableRefused

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")


class RefusedTables:
    """What ``state/refused-tables.json`` lists, for the drainer of a box where SQLite serves."""

    def __init__(self, paths: "Paths", models: Mapping[str, Any], hold: float) -> None:
        """*models*: ``tables`` of tables.json. *hold*: seconds of POSTGRES_HOLD."""
        self._path: Path = paths.refused_tables
        self._hold_path: Path = paths.postgres_hold
        self._models = models
        self._hold = hold
        self._listed: Sequence[RefusedTable] | None = None

    def listed(self) -> Sequence[RefusedTable]:
        """Return the tables; the file is read once, as the service that adds some has ended."""
        if self._listed is None:
            self._listed = read_refused(self._path)
        return self._listed

    def hold_on(self) -> None:
        """Hold PostgreSQL for POSTGRES_HOLD from now on, if a table is listed."""
        if not self.listed():
            return
        reason = "; ".join(one.text for one in self.listed())
        try:
            write_hold(self._hold_path, reason, self._hold)
        except OSError as error:
            logger.warning("the hold on PostgreSQL could not be written: %s", error)

    def rehearse(self, hub: "Hub") -> None:
        """Rehearse a write to each; if all of them pass, PostgreSQL may be handed back to.

        Raises TableRefused for the first that is refused, HubError, OSError.
        """
        listed = self.listed()
        if not listed:
            return
        for one in listed:
            self._rehearse(hub, one.table)
        reason = "; ".join(one.text for one in listed)
        hold = read_hold(self._hold_path)
        if hold is not None and hold.reason == " ".join(reason.split()):
            clear_hold(self._hold_path)
        remove_refused(self._path, [one.table for one in listed])
        self._listed = ()
        for one in listed:
            holds_now = f"PostgreSQL takes writes to {one.table} again"
            logger.info("%s: a rehearsal passed", holds_now)
            WRITES_REFUSED.resolve_alert(holds_now, subject=one.table)

    def _rehearse(self, hub: "Hub", table: str) -> None:
        from edgepaas.sync.refusals.table_judge import rehearse_on_hub

        model = self._models.get(table)
        if self._models and model is None:
            return  # a later release has it no more
        hub.forget_tables()
        there = hub.tables.get(table)
        if model is not None and there is not None and there.shape is not None:
            misfit = table_misfit(table, model, there.shape)
            if misfit is not None:
                raise TableRefused(misfit)
        columns = {} if model is None else {one["name"]: one["type"] for one in model["columns"]}
        hub.begin()
        try:
            found = rehearse_on_hub(hub, table, columns)
        finally:
            hub.rollback()
        refusal = shown_refusal(found, table, KnownTable(columns) if columns else None)
        if refusal is not None:
            raise TableRefused(refusal) from found.error
