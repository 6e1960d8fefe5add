# SPDX-License-Identifier: Apache-2.0
"""Causes for which a PostgreSQL answers and takes no write of an application, on a real server."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pg8000.native

from tests.support.hub_database import HubDatabase
from tests.support.postgres_server import USER

#: Holds while the cause does.
Bring = Callable[["Guest"], AbstractContextManager[None]]


@dataclass(frozen=True)
class Guest:
    """The role, without any privilege of its own, as which the box works on *database*."""

    database: HubDatabase
    role: str

    @property
    def url(self) -> str:
        """The address for the box."""
        server = self.database.server
        return f"postgresql://{self.role}:guest@127.0.0.1:{server.port}/{self.database.name}"

    def run(self, *statements: str) -> None:
        """Run *statements* as superuser."""
        for statement in statements:
            self.database.execute(statement.replace("$role", self.role))

    def hang_up(self) -> None:
        """End every session of the box, so that new settings are those of the next ones."""
        self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '$role'")

    @classmethod
    @contextlib.contextmanager
    def of(cls, database: HubDatabase) -> Iterator["Guest"]:
        """Make a role that may do what a box has to."""
        guest = cls(database, f"guest_{secrets.token_hex(4)}")
        guest.run("CREATE ROLE $role LOGIN PASSWORD 'guest'")
        for schema in ("public", "witness"):
            guest.run(
                f"GRANT USAGE ON SCHEMA {schema} TO $role",
                f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO $role",
                f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO $role",
            )
        try:
            yield guest
        finally:
            guest.hang_up()
            guest.run("DROP OWNED BY $role CASCADE", "DROP ROLE $role")


def between(begin: list[str], end: list[str], *, hang_up: bool = False) -> Bring:
    """Return a cause that *begin* brings about and *end* takes away."""

    @contextlib.contextmanager
    def bring(guest: Guest) -> Iterator[None]:
        guest.run(*begin)
        if hang_up:
            guest.hang_up()
        try:
            yield
        finally:
            guest.run(*end)
            if hang_up:
                guest.hang_up()

    return bring


def open_transaction(*statements: str) -> Bring:
    """Return a cause that lasts while another session's transaction with *statements* does."""

    @contextlib.contextmanager
    def bring(guest: Guest) -> Iterator[None]:
        server = guest.database.server
        connection = pg8000.native.Connection(
            USER, host="127.0.0.1", port=server.port, password=server.password,
            database=guest.database.name,
        )  # fmt: skip
        try:
            connection.run("BEGIN")
            for statement in statements:
                connection.run(statement)
            yield
        finally:
            connection.close()

    return bring


def trigger(body: str) -> Bring:
    """Return a trigger on each reading that comes, with this *body* in PL/pgSQL."""
    return between(
        [
            f"CREATE FUNCTION public.broken() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {body}; RETURN NEW; END $$",
            "CREATE TRIGGER broken BEFORE INSERT ON readings "
            "FOR EACH ROW EXECUTE FUNCTION public.broken()",
        ],
        ["DROP TRIGGER broken ON readings", "DROP FUNCTION public.broken()"],
    )


@contextlib.contextmanager
def full_tablespace(guest: Guest) -> Iterator[None]:
    """The readings lie on a file system of a few MiB, which is full."""
    server = guest.database.server
    place = server.home / f"tiny-{guest.role}"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], check=True)
    owner = server.data.stat()
    os.chown(place, owner.st_uid, owner.st_gid)
    filler = place / "filler"
    try:
        guest.run(
            f"CREATE TABLESPACE tiny_$role LOCATION '{place}'",
            "ALTER TABLE readings SET TABLESPACE tiny_$role",
        )
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink(missing_ok=True)
        guest.run("ALTER TABLE readings SET TABLESPACE pg_default", "DROP TABLESPACE tiny_$role")
        subprocess.run(["umount", str(place)], check=True)


def may_mount(folder: Path) -> bool:
    """Whether this process may mount a file system."""
    if os.geteuid() != 0:
        return False
    probe = folder / "mount-probe"
    probe.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(probe)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(probe)], check=True)
    return True


@dataclass(frozen=True)
class RefusalCase:
    """A cause, what the alert has to say of it, and the settings that it needs."""

    name: str
    bring: Bring
    #: Words of the alert: the table and the server's own.
    said: tuple[str, ...] = ("readings",)
    settings: dict[str, str] = field(default_factory=dict)
    #: Statuses that clients may get beside 503.
    statuses: frozenset[int] = frozenset()
    #: Whether a right to mount is needed.
    mounts: bool = False


CASES = [
    RefusalCase(
        "insert-revoked",
        between(["REVOKE INSERT ON readings FROM $role"], ["GRANT INSERT ON readings TO $role"]),
        ("readings", "permission denied"),
    ),
    RefusalCase(
        "locked-in-share-mode",
        open_transaction("LOCK TABLE readings IN SHARE MODE"),
        ("readings", "lock timeout"),
    ),
    RefusalCase(
        "index-being-built",
        open_transaction("CREATE INDEX of_a_test ON readings (unit)"),
        ("readings", "lock timeout"),
    ),
    RefusalCase(
        "locked-against-all",
        open_transaction("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE"),
        ("readings", "lock timeout"),
    ),
    RefusalCase(
        "required-column-added",
        between(
            [
                "ALTER TABLE readings ADD COLUMN added integer NOT NULL DEFAULT 0",
                "ALTER TABLE readings ALTER COLUMN added DROP DEFAULT",
            ],
            ["ALTER TABLE readings ALTER COLUMN added SET DEFAULT 0"],
        ),
        ("readings", '"added"'),
    ),
    RefusalCase(
        "row-level-security",
        between(
            ["ALTER TABLE readings ENABLE ROW LEVEL SECURITY"],
            ["ALTER TABLE readings DISABLE ROW LEVEL SECURITY"],
        ),
        ("readings", "row-level security"),
    ),
    RefusalCase(
        "trigger-raises",
        trigger("RAISE EXCEPTION 'no reading passes here'"),
        ("readings", "no reading passes here"),
    ),
    RefusalCase(
        "trigger-calls-what-is-not-there",
        trigger("PERFORM is_not_there(NEW.value)"),
        ("readings", "is_not_there"),
    ),
    RefusalCase(
        "trigger-swallows",
        trigger("RETURN NULL"),
        ("readings", "not stored"),
    ),
    RefusalCase(
        "trigger-takes-for-ever",
        trigger("PERFORM pg_sleep(60)"),
        ("readings", "statement timeout"),
        {"DB_STATEMENT_TIMEOUT": "2"},
    ),
    RefusalCase(
        "check-that-no-row-passes",
        between(
            ["ALTER TABLE readings ADD CONSTRAINT odd CHECK (value < -1e300) NOT VALID"],
            ["ALTER TABLE readings DROP CONSTRAINT odd"],
        ),
        ("readings", '"odd"'),
    ),
    RefusalCase(
        "column-of-another-type",
        between(
            ["ALTER TABLE readings ALTER COLUMN unit TYPE integer USING NULL"],
            ["ALTER TABLE readings ALTER COLUMN unit TYPE varchar(50) USING NULL"],
        ),
        ("readings", '"unit"'),
    ),
    RefusalCase(
        "column-renamed",
        between(
            ["ALTER TABLE readings RENAME COLUMN unit TO units"],
            ["ALTER TABLE readings RENAME COLUMN units TO unit"],
        ),
    ),
    RefusalCase(
        "table-gone",
        between(
            ["ALTER TABLE readings RENAME TO readings_gone"],
            ["ALTER TABLE readings_gone RENAME TO readings"],
        ),
    ),
    RefusalCase(
        "schema-revoked",
        between(
            ["REVOKE USAGE ON SCHEMA public FROM PUBLIC, $role"],
            ["GRANT USAGE ON SCHEMA public TO PUBLIC, $role"],
        ),
        (),
    ),
    RefusalCase(
        "database-read-only",
        between(
            ["ALTER ROLE $role SET default_transaction_read_only = on"],
            ["ALTER ROLE $role RESET default_transaction_read_only"],
            hang_up=True,
        ),
        (),
    ),
    RefusalCase(
        "disk-full",
        full_tablespace,
        ("readings",),
        statuses=frozenset({507}),
        mounts=True,
    ),
    RefusalCase(
        "no-standby",
        between(
            [
                "ALTER ROLE $role SET synchronous_commit = on",
                "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
                "SELECT pg_reload_conf()",
            ],
            [
                "ALTER SYSTEM RESET synchronous_standby_names",
                "SELECT pg_reload_conf()",
                "ALTER ROLE $role RESET synchronous_commit",
            ],
            hang_up=True,
        ),
        ("standby",),
        {"DB_STATEMENT_TIMEOUT": "2"},
    ),
]
