# SPDX-License-Identifier: Apache-2.0
"""The three homes of the one box, behind the same few verbs.

Each lives in a network namespace of its own, on port 8080, in production, with settings in
its home's own way: the process environment, ``edgepaas.env``, a container's variables.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

from tests.system import images
from tests.system.appliance import ENV_FILE, Appliance
from tests.system.checkout import REPOSITORY
from tests.system.client import Client
from tests.system.network import Namespace, run

#: A stage, or what runs beside the service, that 'edgepaas up' is to leave out.
WITHOUT = os.environ.get("EDGEPAAS_PARITY_WITHOUT", "")
#: What every home is given, so that nobody waits long for PostgreSQL's return.
ALWAYS = {
    "ENV": "production", "RATE_LIMIT": "0", "HANDBACK_AFTER": "1", "POSTGRES_HOLD": "1",
    "HANDBACK_PER_HOUR": "3600", "HANDBACK_ROWS": "100000", "STOP_TIMEOUT": "5",
    "HEARTBEAT_INTERVAL": "1", "MIRROR_INTERVAL": "1",
}  # fmt: skip


class Home(Protocol):
    """Where a box lives."""

    namespace: Namespace

    def create(self) -> None:
        """Make it, with nothing in it; it does not run yet."""

    def start(self, **settings: str) -> None:
        """Start it with these settings, which replace those of the last start."""

    def stop(self) -> None:
        """Stop it in order."""

    def kill(self) -> None:
        """End everything in it at once."""

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run ``edgepaas ARGUMENTS``; returns its exit status and its standard output."""

    def place(self, name: str, content: bytes) -> str:
        """Put a file that the service may read; returns its path as the service sees it."""

    def report(self) -> str:
        """Return what it has to say after a failure."""

    def destroy(self) -> None:
        """Remove everything of it."""


class Checkout:
    """``make run`` in this checkout, with a home folder of its own."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self._settings: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        # What 'make run' sets up, while there is a network.
        run("make", "-C", str(REPOSITORY), ".venv/run.stamp", timeout=600)
        self._folder = Path(tempfile.mkdtemp(prefix="edgepaas-parity-", dir="/var/tmp"))
        self._log = self._folder / "output"

    def start(self, **settings: str) -> None:
        self._settings = {**ALWAYS, **settings}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace.name, *self._program()],
                env=self._environ(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=REPOSITORY, start_new_session=True,
            )  # fmt: skip
        client = Client(self.namespace)
        deadline = time.monotonic() + 60
        while client.state().get("status") != 200:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"'edgepaas up' is not ready:\n{self.report()}")
            time.sleep(0.1)

    def stop(self) -> None:
        assert self._process is not None
        # Its child, 'edgepaas up', is what a supervisor would tell; make returns its status.
        told = next(iter(_children(self._process.pid)), self._process.pid)
        os.kill(told, signal.SIGTERM)
        status = self._process.wait(60)
        assert status == 0, self.report()

    def kill(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        for pid in [self._process.pid, *_descendants(self._process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(30)

    def command(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace.name, sys.executable, "-m", "edgepaas",
             *arguments],
            env=self._environ(), cwd=self._folder, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def place(self, name: str, content: bytes) -> str:
        (self._folder / name).write_bytes(content)
        return str(self._folder / name)

    def report(self) -> str:
        return self._log.read_text(errors="replace")[-6000:]

    def destroy(self) -> None:
        self.kill()
        run("rm", "-rf", str(self._folder))

    def _program(self) -> list[str]:
        if WITHOUT:
            return [sys.executable, "-m", "tests.system.parity.up_without", WITHOUT, "up"]
        return ["make", "--no-print-directory", "run"]

    def _environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "HOME": str(self._folder), "LANG": "C.UTF-8",
            "EDGEPAAS_HOME": str(self._folder / "home"), "LOG_FILE": "none",
            "PYTHONPATH": str(REPOSITORY), **self._settings,
        }  # fmt: skip


class Package:
    """The installed package in a booted Debian, under its units."""

    def __init__(self, namespace: Namespace, installed: Appliance) -> None:
        self.namespace = namespace
        self._box = Appliance(
            "parity", installed.package, template=installed, namespace=namespace
        )  # fmt: skip
        self._on = False

    def create(self) -> None:
        self._box.create()
        self._file = self._box.path(ENV_FILE).read_text()

    def start(self, **settings: str) -> None:
        lines = "".join(f"{name}={value}\n" for name, value in {**ALWAYS, **settings}.items())
        self._box.write(ENV_FILE, self._file + lines)
        if self._on:
            self._box.exec("systemctl", "start", "edgepaas.socket", "edgepaas", timeout=90)
        else:
            self._box.boot()
            self._on = True
        self._box.client.wait_ready(90)

    def stop(self) -> None:
        self._box.exec("systemctl", "stop", "edgepaas.socket", "edgepaas", timeout=90)

    def kill(self) -> None:
        self._box.kill()
        self._on = False

    def command(self, *arguments: str) -> tuple[int, str]:
        done = self._box.exec("edgepaas", *arguments, check=False, timeout=120)
        return done.returncode, done.stdout

    def place(self, name: str, content: bytes) -> str:
        self._box.write(f"/etc/edgepaas/{name}", content, 0o644)
        return f"/etc/edgepaas/{name}"

    def report(self) -> str:
        return self._box.report()

    def destroy(self) -> None:
        self._box.destroy()


class Image:
    """A container of the image, with a read-only root and a volume."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def create(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="edgepaas-parity-", dir="/var/tmp"))
        self._folder.chmod(0o755)
        self._box = images.Container(
            "parity", images.image(), "--volume", f"{self._folder}:/mnt:ro",
            namespace=self.namespace,
        )  # fmt: skip

    def start(self, **settings: str) -> None:
        self._box.remove()
        self._box.settings = {**ALWAYS, **settings}
        self._box.start()
        self._box.ready(90)

    def stop(self) -> None:
        images.podman("stop", "--time", "30", self._box.name)
        assert self._box.wait() == 0, self.report()

    def kill(self) -> None:
        self._box.kill()

    def command(self, *arguments: str) -> tuple[int, str]:
        done = run(
            *images.PODMAN, "exec", self._box.name, "edgepaas", *arguments, check=False,
            timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout

    def place(self, name: str, content: bytes) -> str:
        (self._folder / name).write_bytes(content)
        return f"/mnt/{name}"

    def report(self) -> str:
        return self._box.logs()[-6000:]

    def destroy(self) -> None:
        self._box.remove()
        images.podman("volume", "rm", "--force", self._box.volume, check=False)
        run("rm", "-rf", str(self._folder))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _descendants(pid: int) -> list[int]:
    return [found for child in _children(pid) for found in (child, *_descendants(child))]
