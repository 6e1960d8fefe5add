# SPDX-License-Identifier: Apache-2.0
"""What a stage of the boot chain and the quick commands must not load, on a fresh box.

Every stage is a process start on a slow machine. What one of them loads without need costs
every boot; so each is held to a list of modules, and a new import at the top of some room
that they share is found here. It is no measure of time: ``make bench`` is.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: The libraries that only a process with a web server or a database's models pays for.
LIBRARIES = frozenset(
    {"sqlalchemy", "alembic", "flask", "werkzeug", "marshmallow", "waitress", "requests", "urllib3"}
)
#: Parts of the standard library that take a millisecond or more, and have cheaper ways.
COSTLY = frozenset(
    {
        "asyncio",
        "bz2",  # by shutil: argparse, unless it is given the width of its help
        "concurrent.futures",
        "decimal",
        "difflib",
        "email.message",
        "importlib.metadata",
        "logging.handlers",
        "multiprocessing",
        "pickle",
        "random",
        "shutil",
        "tempfile",
        "zipfile",
    }
)
#: Where nothing is asked over the network. (``hashlib`` is OpenSSL's, too.)
NETWORK = frozenset({"_hashlib", "http.client", "pg8000", "socket", "ssl", "urllib.request"})
#: What only a running service, or the command that asks for it, needs of our own.
SERVICE = frozenset(
    {
        "edgepaas.alerts.delivery",
        "edgepaas.app.box",
        "edgepaas.httpd",
        "edgepaas.supervisor",
        "edgepaas.telemetry.models",
        "edgepaas.timing.periodic_task",
        "edgepaas.web",
    }
)
QUICK = LIBRARIES | COSTLY | SERVICE

#: The command, and what it must not load.
STAGES = {
    "env": QUICK | NETWORK | {"sqlite3"},
    "settings": QUICK | NETWORK | {"sqlite3"},
    "alerts list": (QUICK - {"edgepaas.alerts.delivery"})
    | (NETWORK - {"_hashlib"})
    | {"sqlite3", "edgepaas.app"},
    "alert text": QUICK | (NETWORK - {"_hashlib"}) | {"sqlite3"},
    "dbdecide": QUICK | {"_hashlib", "ssl", "pg8000", "http.client", "edgepaas.app"},
    "status": (QUICK - {"email.message", "random"}) | {"pg8000", "edgepaas.app"},
    "sync --once": QUICK | NETWORK | {"sqlite3", "edgepaas.app"},
    "alerts deliver": (QUICK - {"edgepaas.alerts.delivery"})
    | (NETWORK - {"_hashlib"})
    | {"sqlite3", "edgepaas.app"},
}

CODE = """
import json, sys
before = set(sys.modules)  # site-packages may have hooks of their own
from edgepaas.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted(set(sys.modules) - before)]), file=sys.stderr)
"""


def loaded_by(command: str, home: Path) -> set[str]:
    """Return the modules that *command* loads on the box in *home*."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("EDGEPAAS", "COV"))}
    ran = subprocess.run(
        [sys.executable, "-c", CODE, *command.split()],
        env={**environ, "EDGEPAAS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status, modules = json.loads(ran.stderr.splitlines()[-1])
    # 'status' reports with 1 that the service does not run.
    assert status == (1 if command == "status" else 0), ran.stderr
    return set(modules)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box on which the settings are resolved and SQLite was decided for."""
    home = tmp_path_factory.mktemp("box")
    loaded_by("env", home)
    loaded_by("dbdecide", home)
    return home


@pytest.fixture
def box(decided: Path, tmp_path: Path) -> Path:
    """A copy of it: what one command leaves behind, another one would read."""
    return Path(shutil.copytree(decided, tmp_path / "box"))


@pytest.mark.parametrize("command", STAGES)
def test_a_quick_command_loads_nothing_that_it_does_not_need(command: str, box: Path) -> None:
    assert loaded_by(command, box) & STAGES[command] == set()


def test_an_application_is_loaded_without_its_models_and_views(box: Path) -> None:
    """The environment stage asks it for its settings: the rest is seen not to come along."""
    loaded = loaded_by("env", box)
    assert {"edgepaas.telemetry", "edgepaas.app.application"} <= loaded
    assert not {"edgepaas.telemetry.readings", "edgepaas.app.models", "edgepaas.app.api"} & loaded
