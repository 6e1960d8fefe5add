# SPDX-License-Identifier: Apache-2.0
"""Examinations of the databases and what they need, and of alerts, tokens and services."""

import contextlib
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgepaas import alerts
from edgepaas.database.sqlite import numeric_order
from edgepaas.doctor.findings import Finding, Level
from edgepaas.errors import ConfigurationError, EdgePaaSError
from edgepaas.files.contract import ContractMissing
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.files.records import files_set_aside
from edgepaas.files.sqlite_file import open_refusal_reason
from edgepaas.health.services import probe_service
from edgepaas.settings import Address, Settings, split_url

_SHOWN = 3
_REPAIR = "'edgepaas schema --repair' makes it"


def dns(settings: Settings) -> Finding:
    """Whether the database's name can be resolved."""
    address = _server(settings)
    if address is None or not address.host or address.on_this_box:
        return Finding("DNS", "ok", "no name has to be resolved")
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        message = f"{address.host} cannot be resolved: {error.strerror}"
        advice = "check the name in DATABASE_URL and /etc/resolv.conf; an IP address needs no DNS"
        return Finding("DNS", _severity(settings), message, advice)
    places = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
    return Finding("DNS", "ok", f"{address.host} is {places}")


def tls(settings: Settings) -> Finding:
    """Whether the connection to PostgreSQL is encrypted and the server verified."""
    address = _server(settings)
    if address is None:
        return Finding("TLS", "ok", "no PostgreSQL is configured")
    from edgepaas.pgdriver.tls import TLSPolicy

    policy = TLSPolicy.of(settings, address)
    if policy.root_certificate and not Path(policy.root_certificate).is_file():
        message = f"the CA file {policy.root_certificate} does not exist"
        return Finding("TLS", _severity(settings), message, "correct DB_SSLROOTCERT")
    if policy.warning:
        advice = "set DB_SSLMODE=verify-full, and DB_SSLROOTCERT to the CA's certificate"
        return Finding("TLS", "warn", policy.warning, advice)
    return Finding("TLS", "ok", f"{policy.mode} towards {address.host or 'a Unix socket'}")


def postgres(settings: Settings) -> Finding:
    """Whether PostgreSQL is usable, by the same probe as the decision."""
    address = _server(settings)
    if address is None:
        return Finding(
            "PostgreSQL", "ok", "none is configured: SQLite alone (DATABASE_URL is empty)"
        )
    from edgepaas.decision.probe import probe
    from edgepaas.pgdriver.tls import TLSPolicy

    found = probe(address, TLSPolicy.of(settings, address), settings.number("DB_CONNECT_TIMEOUT"))
    if found.usable:
        return Finding("PostgreSQL", "ok", found.reason or f"{address.masked()} is usable")
    advice = f"check DATABASE_URL ({address.masked()}) and the server's log"
    return Finding("PostgreSQL", _severity(settings), found.reason, advice)


def sqlite_file(paths: Paths, settings: Settings) -> Finding:
    """Whether the SQLite file is intact."""
    path = settings.sqlite_file(paths.state)
    if not path.exists():
        return Finding("SQLite", "ok", f"{path} does not exist yet; the schema stage creates it")
    advice = (
        "'systemctl stop edgepaas.socket edgepaas edgepaas-sync', 'edgepaas schema --repair', then "
        "'systemctl start edgepaas.socket edgepaas'; copies are in backups/"
    )
    if trouble := open_refusal_reason(path):
        return Finding("SQLite", "fail", f"{path}: {trouble}", advice)
    with held(paths.database_lock, shared=True), _opened(path) as connection:
        try:
            rows = connection.execute("PRAGMA quick_check(10)").fetchall()
        except sqlite3.Error as error:
            return Finding("SQLite", "fail", f"{path}: {error}", advice)
    if rows != [("ok",)]:
        damage = "; ".join(str(row[0]) for row in rows[:_SHOWN])
        return Finding("SQLite", "fail", f"{path} is damaged: {damage}", advice)
    return Finding("SQLite", "ok", f"{path} is intact, {path.stat().st_size >> 10} KiB")


def application(paths: Paths, settings: Settings) -> list[Finding]:
    """Whether the application can be loaded, and why a stage of the chain failed last."""
    from edgepaas.hosting.loading import load_application
    from edgepaas.service.stage_failure import failed_stage

    found = []
    if failed := failed_stage(paths):
        advice = "mend what it names; the chain runs again by itself"
        found.append(Finding("boot chain", "fail", failed, advice))
    name = settings.text("EDGEPAAS_APP")
    try:
        load_application(name)
    except ConfigurationError as error:
        advice = f"correct EDGEPAAS_APP in {paths.env_file}, or install the application again"
        return [*found, Finding("application", "fail", str(error), advice)]
    return [*found, Finding("application", "ok", f"{name} can be loaded")]


def units() -> Finding:
    """Whether a unit of the chain is masked, which systemd passes over without a word."""
    from edgepaas.health.alerting import CHAIN_UNITS, masked_units

    masked = masked_units(units=CHAIN_UNITS)
    if not masked:
        return Finding("units", "ok", "no unit of the box is masked")
    advice = f"'systemctl unmask {' '.join(masked)}', then 'systemctl restart edgepaas'"
    return Finding("units", "fail", f"{', '.join(masked)} masked", advice)


def schema(paths: Paths, settings: Settings) -> Finding:
    """Whether the schema of the chosen database is at head."""
    from edgepaas.database import open_database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.hosting.loading import load_application
    from edgepaas.schema.at_head import missing_indexes_reason, schema_at_head

    try:
        application = load_application(settings.text("EDGEPAAS_APP"))
    except ConfigurationError:
        return Finding("schema", "ok", "not examined: the application cannot be loaded")
    if application.migrations is None:
        return Finding("schema", "ok", f"the application {application.name} has no migrations")
    try:
        contract = DatabaseContract.read(paths.db_contract)
    except ContractMissing as error:
        return Finding("schema", "warn", str(error), "run the chain: 'edgepaas up'")
    database = open_database(contract, settings, paths)
    try:
        state = schema_at_head(database, application)
        no_index = missing_indexes_reason(database, application) if state.at_head else ""
    finally:
        database.close()
    if no_index:
        return Finding("schema", "warn", f"{state.message}, {no_index}", _REPAIR)
    if state.at_head:
        return Finding("schema", "ok", state.message)
    return Finding("schema", "fail", state.message, "'edgepaas schema --repair'")


def delivery(paths: Paths, settings: Settings) -> Finding:
    """Whether alerts reach people: a channel is set up, the deliverer runs, nothing is stuck."""
    from edgepaas.health.alerting import NO_CHANNEL, SET_UP, has_channel, masked_units

    if masked := masked_units():
        message = f"{', '.join(masked)} masked: alerts are not delivered"
        return Finding("alerts", "fail", message, f"'systemctl unmask {' '.join(masked)}'")
    if not has_channel(settings) and not settings.flag("ALERT_LOG_ONLY"):
        level: Level = "warn" if settings.text("ENV") == "production" else "ok"
        return Finding("alerts", level, NO_CHANNEL, SET_UP)
    waiting = sum(1 for _ in _files(paths.alerts / "new"))
    dead = sum(1 for _ in _files(paths.alerts / "dead"))
    message = f"{waiting} alerts wait, {dead} could not be delivered"
    counts = alerts.counts(paths)
    failing = "; ".join(f"{name}: {why}" for name, why in counts.channels.items() if why)
    if dead:
        advice = "'edgepaas alerts list' shows why; then 'edgepaas alerts retry', or 'discard'"
        return Finding("alerts", "warn", message, advice)
    if waiting and not failing:
        advice = "if they still wait in a minute: 'systemctl status edgepaas-alerts'"
        return Finding("alerts", "warn", message, advice)
    if failing:
        advice = "mend what is named, then 'edgepaas alerts test'"
        return Finding("alerts", "warn", f"{message}; {failing}", advice)
    return Finding("alerts", "ok", message)


def quarantine(paths: Paths, settings: Settings) -> list[Finding]:
    """Whether SQLite files were set aside that hold rows."""
    from edgepaas.schema.sqlite.quarantine import list_quarantined

    found = list_quarantined(paths, settings.sqlite_file(paths.state))
    if not found:
        return [Finding("quarantine", "ok", "no file is set aside")]
    advice = "copy the rows that are needed, then move the file away or delete it"
    return [Finding("quarantine", "warn", entry.line, advice) for entry in found]


def state_files(paths: Paths) -> list[Finding]:
    """Whether the state was lost, or files of it set aside that this build does not understand."""
    from edgepaas.alerts.catalogue import STATE_LOST
    from edgepaas.sync.losses.lost_state import lost_sentences

    lost = [Finding("state", "fail", one, STATE_LOST.what_to_do) for one in lost_sentences(paths)]
    return [*lost, _set_aside(paths)]


def _set_aside(paths: Paths) -> Finding:
    found = files_set_aside(paths.state)
    if not found:
        return Finding("state files", "ok", "none is set aside")
    names = ", ".join(path.name for path in found)
    return Finding(
        "state files",
        "warn",
        f"set aside in {paths.state}: {names}",
        "they are damaged or another version's: take from them what is needed, then remove them",
    )


def tokens(paths: Paths, settings: Settings) -> Finding:
    """Whether there is a token, where one is needed to write."""
    from edgepaas.web.access.tokens import read_tokens

    found = read_tokens(paths.tokens)
    if not found and settings.flag("AUTH_REQUIRED"):
        message = "a token is needed to write, and there is none"
        return Finding("tokens", "warn", message, "'edgepaas token create NAME' prints one")
    writing = sum(not token.read_only for token in found)
    return Finding("tokens", "ok", f"{len(found)} tokens, {writing} of them may write")


def services(settings: Settings) -> list[Finding]:
    """Whether the services of REQUIRED_SERVICES and OPTIONAL_SERVICES answer."""
    findings = []
    timeout = settings.number("SERVICE_TIMEOUT")
    for service in settings.services:
        name = f"service {service.name}"
        try:
            findings.append(Finding(name, "ok", probe_service(service, timeout)))
        except (EdgePaaSError, OSError) as error:
            required = service.required and settings.text("ENV") == "production"
            advice = "start it, or correct REQUIRED_SERVICES or OPTIONAL_SERVICES"
            findings.append(Finding(name, "fail" if required else "warn", str(error), advice))
    return findings


def _server(settings: Settings) -> Address | None:
    url = settings.text("DATABASE_URL")
    if not url or url.startswith("sqlite:"):
        return None
    try:
        return split_url(url)
    except ValueError as error:
        raise ConfigurationError(f"DATABASE_URL: {error}") from None


def _severity(settings: Settings) -> Level:
    return "warn" if settings.flag("BOTH_DB") else "fail"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        numeric_order.register(connection)  # quick_check compares
        yield connection
    finally:
        connection.close()


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (entry for entry in folder.iterdir() if not entry.name.startswith("."))
