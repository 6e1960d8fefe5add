# SPDX-License-Identifier: Apache-2.0
"""A chain of migrations: where its scripts lie and which revision is the newest.

The scripts are read with ``ast``: importing Alembic to learn one word costs a slow box
more than everything else that a boot stage with nothing to do has to do.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.schema.errors import ChainIncomplete, SchemaError

if TYPE_CHECKING:
    from edgepaas.app import Application

#: The version table that every application had in the releases before each had its own; those
#: are called so and by the application's name.
SHARED_VERSION_TABLE = "alembic_version"
#: The platform's own chain: its name, and where it counts its revisions.
PLATFORM = "platform"
PLATFORM_VERSION_TABLE = "edgepaas_version"

#: What an ``env.py`` consists of.
ENVIRONMENT = (
    "from alembic import context",
    "from edgepaas.app.migrations import run",
    "run(context)",
)

Revisions = frozenset[str]


#: PostgreSQL cuts names off after 63 letters.
_LONGEST_NAME = 36


def version_table_of(application: str) -> str:
    """Return the name of the *application*'s version table, which no other one has."""
    plain = re.sub("[^a-z0-9_]", "_", application)[:_LONGEST_NAME]
    # Of what is no plain name, a digest: two names may be alike but for what was replaced.
    digest = "" if plain == application else hashlib.sha256(application.encode()).hexdigest()[:8]
    return "_".join(filter(None, (SHARED_VERSION_TABLE, plain, digest)))


@dataclass(frozen=True)
class Chain:
    """The migrations in *folder* (as Alembic lays it out), counted in *version_table*.

    ``folder`` is None for an application without migrations: its tables are created
    where they are missing and never altered. *version_table* is by default the one that
    belongs to *name*. *only_postgres*: its scripts run nowhere else. *formerly*: names that
    the application had.
    """

    name: str
    folder: Path | None
    version_table: str = ""
    only_postgres: bool = False
    formerly: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Name the version table after the application."""
        if not self.version_table:
            object.__setattr__(self, "version_table", version_table_of(self.name))

    @property
    def names(self) -> tuple[str, ...]:
        """The application's name, and those that it had."""
        return (self.name, *self.formerly)

    def scripts(self) -> list[Path]:
        """Return the revision files, sorted by name."""
        if self.folder is None:
            return []
        return sorted((self.folder / "versions").glob("*.py"))

    @cached_property
    def unwritten(self) -> bool:
        """Whether there is no revision (yet): the tables come from the models alone."""
        return not self.scripts()

    def check_folder(self) -> None:
        """Raise ChainIncomplete when the folder that the application names is not there."""
        if self.folder is not None and not self.folder.is_dir():
            raise ChainIncomplete(
                f"the application {self.name} says that its migrations are in {self.folder}, "
                f"which is no folder: make it, with an env.py in it, or correct 'migrations' "
                f"in its Application"
            )

    def check_environment(self) -> None:
        """Raise ChainIncomplete where a migration cannot be run for want of an ``env.py``."""
        self.check_folder()
        if self.folder is not None and not (self.folder / "env.py").is_file():
            lines = ", ".join(f"'{line}'" for line in ENVIRONMENT)
            raise ChainIncomplete(
                f"{self.folder / 'env.py'} is not there: it has to hold three lines: {lines}"
            )

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Each revision and those that come directly before it; SchemaError names a bad script."""
        found: dict[str, tuple[str, ...]] = {}
        for script in self.scripts():
            revision, before = _read_script(script)
            if revision in found:
                raise SchemaError(f"{script} has the revision {revision!r} of another script")
            found[revision] = before
        for revision, before in found.items():
            missing = [parent for parent in before if parent not in found]
            if missing:
                raise SchemaError(
                    f"revision {revision} of {self.folder} follows {missing[0]}, which is not there"
                )
        return found

    @property
    def heads(self) -> Revisions:
        """The revisions that nothing follows: one, unless two branches were not merged."""
        followed = {parent for before in self.parents.values() for parent in before}
        return frozenset(self.parents) - followed

    def ancestors(self, revision: str) -> Revisions:
        """Every revision that comes before *revision*."""
        found: set[str] = set()
        waiting = list(self.parents.get(revision, ()))
        while waiting:
            parent = waiting.pop()
            if parent not in found:
                found.add(parent)
                waiting.extend(self.parents[parent])
        return frozenset(found)


def chain_of(application: "Application") -> Chain:
    """Return the application's chain."""
    return Chain(application.name, application.migrations, formerly=application.formerly)


def platform_chain() -> Chain:
    """Return the chain of the tables that the hub keeps on every box; only on PostgreSQL.

    Raises ChainIncomplete where this build has none of its scripts.
    """
    package = Path(__file__).parents[1]
    # What a wheel carries, and the checkout's folder, which the first is a link to.
    places = (package / "_alembic" / PLATFORM, package.parent / "alembic" / PLATFORM)
    for folder in places:
        if (folder / "env.py").is_file():
            return Chain(PLATFORM, folder, PLATFORM_VERSION_TABLE, only_postgres=True)
    raise ChainIncomplete(f"{places[0]} is not there: install this build again")


def show(revisions: Iterable[str]) -> str:
    """Return revisions for a message: ``0001``, ``0002 and 0003``, or ``none``."""
    return " and ".join(sorted(revisions)) or "none"


def _read_script(path: Path) -> tuple[str, tuple[str, ...]]:
    values: dict[str, object] = {}
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
        for statement in tree.body:
            targets: Sequence[ast.expr] = ()
            if isinstance(statement, ast.Assign):
                targets = statement.targets
            elif isinstance(statement, ast.AnnAssign):
                targets = [statement.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id in ("revision", "down_revision"):
                    value = statement.value  # type: ignore[attr-defined]
                    values[target.id] = ast.literal_eval(value)
    except (OSError, SyntaxError, ValueError) as error:
        raise SchemaError(f"the migration {path} cannot be read: {error}") from error
    revision, before = values.get("revision"), values.get("down_revision")
    if not isinstance(revision, str) or not revision:
        raise SchemaError(f"the migration {path} names no revision")
    if before is None:
        return revision, ()
    return revision, (before,) if isinstance(before, str) else tuple(before)  # type: ignore[arg-type]
