"""The order of the examinations, from what everything needs to what needs everything."""

from collections.abc import Iterator
from functools import partial

from edgepaas.files.paths import Paths
from edgepaas.logs import register_secret
from edgepaas.service.doctor import data, machine
from edgepaas.service.doctor.findings import Examination, Finding, examine
from edgepaas.settings import Settings
from edgepaas.settings.resolve import resolve_box


def preflight(paths: Paths) -> Iterator[Finding]:
    """Yield every finding about the box with these *paths*; changes nothing.

    The settings are resolved afresh, so that a file can be tried before it is in force.
    """
    resolution = resolve_box(paths)
    settings = resolution.settings
    for secret in settings.secrets():
        register_secret(secret)
    findings = [
        Finding(
            "settings",
            "fail" if found.severity == "error" else "warn",
            f"{' and '.join(found.names)}: {found.message}" if found.names else found.message,
            f"correct it in {paths.env_file}, or in the environment",
        )
        for found in resolution.findings
    ]
    yield from findings or [
        Finding("settings", "ok", f"{paths.env_file} and the environment are understood")
    ]
    yield from examine(_examinations(paths, settings))


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
        Examination("schema", partial(data.schema, paths, settings), "run 'edgepaas schema'"),
        Examination("spool", partial(data.spool, paths)),
        Examination("tokens", partial(data.tokens, paths, settings), "delete the damaged file"),
        Examination("services", partial(data.services, settings)),
        Examination("port", partial(machine.port, settings), "set another PORT"),
    ]
