# SPDX-License-Identifier: Apache-2.0
"""The examinations in their order: first what all others depend on."""

from collections.abc import Iterator
from functools import partial

from edgepaas.doctor import data, forwarding, machine
from edgepaas.doctor.findings import Examination, Finding, examine
from edgepaas.files.contract import ContractMissing
from edgepaas.files.paths import Paths
from edgepaas.hosting.settings import declared_by
from edgepaas.logs import register_secret
from edgepaas.settings import Settings
from edgepaas.settings.derive import exposures
from edgepaas.settings.resolve import resolve_box


def preflight(paths: Paths) -> Iterator[Finding]:
    """Yield every finding about the box with these *paths*; changes nothing.

    The settings are those in force, from run/env; where the environment stage has not run
    yet, those that it would make of the sources.
    """
    try:
        settings = Settings.read(paths.env_contract)
    except ContractMissing:
        settings, findings = _resolved(paths)
    else:
        findings = [_in_force(paths), *_opened(settings)]
    for secret in settings.secrets():
        register_secret(secret)
    yield from findings
    yield from examine(_examinations(paths, settings))


def _in_force(paths: Paths) -> Finding:
    message = f"in force: {paths.env_contract}"
    try:
        changed = paths.env_file.stat().st_mtime > paths.env_contract.stat().st_mtime
    except OSError:
        changed = False
    if changed:
        return Finding(
            "settings",
            "warn",
            f"{message}; {paths.env_file} was changed after that",
            "'edgepaas env --explain' shows the effect, a restart applies it",
        )
    return Finding("settings", "ok", message)


def _opened(settings: Settings) -> list[Finding]:
    is_opened = settings.is_given("AUTH_REQUIRED") and not settings.flag("AUTH_REQUIRED")
    return [
        Finding(
            "exposure",
            "warn",
            f"{' and '.join(names)}: {message}",
            f"change {names[0]} where strangers reach the box, and restart it",
        )
        for names, message in exposures(settings.text, is_opened=is_opened)
    ]


def _resolved(paths: Paths) -> tuple[Settings, list[Finding]]:
    resolution = resolve_box(paths, declared_by)
    both = f"{paths.env_file} and the environment are"
    sources = both if _is_there(paths) else "the environment is"
    first = f"not in force yet (no {paths.env_contract.name} in {paths.runtime}): {sources} "
    findings = [
        Finding(
            "settings",
            "fail" if found.severity == "error" else "warn",
            f"{' and '.join(found.names)}: {found.message}" if found.names else found.message,
            f"correct it in {paths.env_file}, or in the environment",
        )
        for found in resolution.findings
    ]
    understood = "valid" if not findings else "valid but for what follows"
    return resolution.settings, [Finding("settings", "ok", first + understood), *findings]


def _is_there(paths: Paths) -> bool:
    try:
        return paths.env_file.exists()
    except OSError:
        return False


def _examinations(paths: Paths, settings: Settings) -> list[Examination]:
    return [
        Examination("permissions", partial(machine.permissions, paths)),
        Examination("clock", machine.clock),
        Examination("memory", machine.memory),
        Examination("disk", partial(machine.disk, paths, settings), "make room on the disk"),
        Examination("DNS", partial(data.dns, settings), "check /etc/resolv.conf"),
        Examination("TLS", partial(data.tls, settings), "correct DB_SSLMODE and DB_SSLROOTCERT"),
        Examination("PostgreSQL", partial(data.postgres, settings), "check DATABASE_URL"),
        Examination("SQLite", partial(data.sqlite_file, paths, settings), "see 'edgepaas schema'"),
        Examination("units", data.units),
        Examination("application", partial(data.application, paths, settings)),
        Examination("schema", partial(data.schema, paths, settings), "run 'edgepaas schema'"),
        Examination("capture", partial(forwarding.captured, paths, settings)),
        Examination("ledger", partial(forwarding.ledger, paths, settings)),
        Examination("disk budget", partial(forwarding.budget, paths, settings)),
        Examination("ballast", partial(forwarding.ballast, paths, settings)),
        Examination("hub schema", partial(forwarding.hub_schema, paths, settings)),
        Examination("sync", partial(forwarding.drainer, paths)),
        Examination("quarantine", partial(data.quarantine, paths, settings)),
        Examination("state files", partial(data.state_files, paths)),
        Examination("alerts", partial(data.delivery, paths, settings)),
        Examination("tokens", partial(data.tokens, paths, settings), "delete the damaged file"),
        Examination("services", partial(data.services, settings)),
        Examination("port", partial(machine.port, paths, settings), "set another PORT"),
    ]
