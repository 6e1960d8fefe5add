# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --downgrade``: look at every database first, then go back, or not at all."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.database.postgresql.connector import Connector
from edgepaas.errors import EXIT_DONE, EXIT_FAILED, UsageError
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.node_identity import node_identity
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema.chain import Chain, Revisions, chain_of, show
from edgepaas.schema.downgrade.rehearsal import Downgrade
from edgepaas.schema.downgrade.server import (
    downgrade_server,
    rehearse_on_server,
    revisions_of_server,
)
from edgepaas.schema.downgrade.sqlite_file import (
    downgrade_file,
    rehearse_on_file,
    revisions_of_file,
)
from edgepaas.schema.downgrade.target import comes_before, target_of
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.renames.boxes import OwnBox
from edgepaas.schema.report import SchemaReport
from edgepaas.terminal import announce, confirmed, print_json

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.app import Application
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: Seconds to wait for processes that have the file open: a service does not let go of it.
_PATIENCE = 3.0
_NEXT = (
    "this build brings it to its own revision again with its next start: install the build that "
    "is to run on it first, then 'systemctl start edgepaas.socket edgepaas'"
)


@dataclass(frozen=True)
class _Databases:
    """What this box has: its file, and its PostgreSQL where there is one to be changed."""

    contract: "DatabaseContract"
    settings: "Settings"
    paths: "Paths"
    chain: Chain
    models: "MetaData | None"
    only: str

    @property
    def connector(self) -> Connector:
        return Connector(self.contract.hub_url, self.settings, name="edgepaas-schema")

    @property
    def own(self) -> OwnBox:
        return OwnBox(node_identity(self.paths).node_id, self.contract.sqlite_path)

    def revisions(self) -> dict[str, Revisions]:
        """Return the revisions by database; raises SchemaError, DatabaseUnavailable."""
        found: dict[str, Revisions] = {}
        # PostgreSQL first: what fails there leaves the file as it was.
        if self.only != "sqlite" and self.contract.hub_url:
            found["postgresql"] = revisions_of_server(self.connector, self.chain, self.models)
        if self.only != "postgresql":
            path = self.contract.sqlite_path
            with held(self.paths.database_lock, shared=True, timeout=_PATIENCE):
                there = revisions_of_file(path, self.paths, self.chain)
            if there is not None:
                found["sqlite"] = there
        return found

    def rehearse(self, database: str, target: str) -> Downgrade:
        if database == "postgresql":
            return rehearse_on_server(self.connector, self.chain, self.models, target, self.own)
        with held(self.paths.database_lock, shared=True, timeout=_PATIENCE):
            return rehearse_on_file(self.contract.sqlite_path, self.chain, self.models, target)

    def take_back(self, database: str, target: str, before: Revisions) -> SchemaReport:
        if database == "postgresql":
            return downgrade_server(
                self.connector,
                self.paths,
                self.chain,
                self.models,
                target=target,
                own=self.own,
                before=before,
            )
        return downgrade_file(
            self.contract.sqlite_path,
            self.paths,
            self.chain,
            self.models,
            target=target,
            before=before,
        )


_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def downgrade(
    arguments: argparse.Namespace,
    contract: "DatabaseContract",
    settings: "Settings",
    paths: "Paths",
    application: "Application",
) -> int:
    """Take every database back that has come further; raises SchemaError, UsageError."""
    if arguments.only == "postgresql" and not contract.hub_url:
        raise UsageError("there is no PostgreSQL: DATABASE_URL names none")
    if arguments.only != "sqlite" and contract.hub_url and not settings.flag("RUN_MIGRATIONS"):
        raise SchemaError(
            "RUN_MIGRATIONS=false keeps this box from changing PostgreSQL: run it on one that "
            "may, or with '--only sqlite'"
        )
    chain = chain_of(application)
    databases = _Databases(
        contract, settings, paths, chain, metadata_of(application), arguments.only or ""
    )
    found = databases.revisions()
    target = target_of(chain, arguments.downgrade, found.values())
    pending = [name for name, there in found.items() if comes_before(chain, there, target)]
    plans = {name: databases.rehearse(name, target) for name in pending}
    refused = any(plan.refusal for plan in plans.values())
    if not arguments.json:
        for name, there in found.items():
            announce("schema", f"{_NAMES[name]}: {_said(plans.get(name), there, target)}")
    if arguments.dry_run or refused or not pending:
        if arguments.json:
            _print_json(found, plans, {}, target)
        return EXIT_FAILED if refused else EXIT_DONE
    names = " and ".join(_NAMES[name] for name in pending)
    if not arguments.yes and not confirmed(f"take {names} back to {target}"):
        announce("schema", "nothing was changed")
        return EXIT_FAILED
    _take_back(databases, plans, found, target, as_json=arguments.json)
    return EXIT_DONE


def _take_back(
    databases: _Databases,
    plans: dict[str, Downgrade],
    found: dict[str, Revisions],
    target: str,
    *,
    as_json: bool,
) -> None:
    """Take each of *plans* back; what was done is said, also where the next one fails."""
    reports: dict[str, SchemaReport] = {}
    try:
        with _stopped(databases.paths):
            for name in plans:
                reports[name] = databases.take_back(name, target, found[name])
    finally:
        if as_json:
            _print_json(found, plans, reports, target)
        for name, report in ({} if as_json else reports).items():
            for step in (*report.steps, report.message):
                announce("schema", f"{_NAMES[name]}: {step}")
    if not as_json:
        announce("schema", _NEXT)


def _said(plan: Downgrade | None, there: Revisions, target: str) -> str:
    if plan is None:
        return f"at {show(there)}: nothing is to be taken back"
    if plan.refusal:
        return f"REFUSED, nothing was changed: {plan.refusal}"
    return f"from {show(there)} back to {target} it would lose: {plan.lost}"


def _print_json(
    found: dict[str, Revisions],
    plans: dict[str, Downgrade],
    reports: dict[str, SchemaReport],
    target: str,
) -> None:
    documents = []
    for name, there in found.items():
        plan, report = plans.get(name), reports.get(name)
        documents.append(
            {
                "database": name,
                "at": sorted(there if report is None else report.after),
                "before": sorted(there),
                "lost": [] if plan is None else list(plan.losses),
                "refused": "" if plan is None else plan.refusal,
                "done": report is not None,
                "kept": None if report is None or report.kept is None else str(report.kept),
            }
        )
    print_json({"target": target, "databases": documents})


@contextmanager
def _stopped(paths: "Paths") -> Iterator[None]:
    """Hold the file's lock exclusively: no process of this box works on either database."""
    try:
        with held(paths.database_lock, timeout=_PATIENCE):
            yield
    except LockHeld as error:
        raise SchemaError(
            f"nothing was changed: the box runs. Stop it: 'systemctl stop edgepaas.socket edgepaas "
            f"edgepaas-sync' (or end 'edgepaas up'), then run this again; {error}"
        ) from error
