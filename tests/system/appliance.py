# SPDX-License-Identifier: Apache-2.0
"""A box with the package on it, and what an operator does with it."""

import json
import time
from pathlib import Path
from typing import Any

from tests.system.bed import Box
from tests.system.client import Client
from tests.system.network import Namespace

ENV_FILE = "/etc/edgepaas/edgepaas.env"
PACKAGE = "/root/edgepaas.deb"


class Appliance(Box):
    """A booted Debian that the package is, or is to be, installed on."""

    def __init__(
        self, name: str, package: Path, *, suite: str = "",
        namespace: Namespace | None = None, template: Box | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, suite=suite, namespace=namespace, template=template)
        self.package = package
        self._token = ""

    def install(self, package: Path | None = None, *options: str) -> float:
        """Install offline, as README says; returns the seconds until it was ready.

        Only this box's own loopback is there: nothing can be downloaded.
        """
        self.watch_the_log()
        self.copy_in(package or self.package, PACKAGE)
        began = time.monotonic()
        self.exec("apt-get", "install", "-y", *options, PACKAGE, timeout=180)
        self.client.wait_ready(60)
        return time.monotonic() - began

    def watch_the_log(self) -> None:
        """Have the box be sound without a channel; test_box_alerts is about those that have one."""
        self.exec("mkdir", "-p", "/etc/systemd/system.conf.d")
        setting = "[Manager]\\nDefaultEnvironment=ALERT_LOG_ONLY=true\\n"
        self.exec("sh", "-c", f"printf '{setting}' > /etc/systemd/system.conf.d/alerts.conf")
        self.exec("systemctl", "daemon-reexec")

    @property
    def client(self) -> Client:
        """A client on the box itself, without a token."""
        assert self.namespace is not None
        return Client(self.namespace)

    @property
    def writer(self) -> Client:
        """A client on the box itself that may write; its token is made on first use."""
        if not self._token:
            self._token = self.exec("edgepaas", "token", "create", "tests").stdout.strip()
        client = self.client
        client.token = self._token
        return client

    def configure(self, **settings: str) -> None:
        """Append settings to the file that the operator edits; does not restart."""
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        path = self.path(ENV_FILE)
        self.write(ENV_FILE, path.read_text() + lines)

    def restart(self, limit: float = 90.0, *, word: str = "") -> dict[str, Any]:
        """Restart as an operator does, and wait until it is ready; returns /health/ready."""
        self.exec("systemctl", "restart", "edgepaas", timeout=limit)
        return self.client.wait_ready(limit, word=word)

    def status(self) -> dict[str, Any]:
        """Return what ``edgepaas status --json`` says, as an ordinary user."""
        printed = self.exec(
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            "edgepaas", "status", "--json", check=False,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(printed.stdout)
        return found

    def main_pid(self) -> int:
        """The service's process id inside the box; 0 while there is none."""
        return int(self.show("edgepaas.service", "MainPID") or 0)

    def starts(self) -> int:
        """How often the application was ready in this boot: what the journal has, it keeps.

        MainPID= is no answer to whether it serves: between two attempts systemd shows the process
        that has just failed, or one that only answers 503.
        """
        return self.journal("-b", "-u", "edgepaas.service").count("Started edgepaas.service")

    def attempts(self, least: int, seconds: float = 12.0) -> int:
        """How often the chain began in this boot, waited for: *least* times, and for *seconds*."""
        began = time.monotonic()
        while True:
            found = self.journal("-b", "-u", "edgepaas-env").count("Starting edgepaas-env")
            passed = time.monotonic() - began
            if found >= least and passed >= seconds:
                return found
            assert passed < 120, f"after {passed:.0f} s the chain began {found} times"
            time.sleep(0.5)

    def wait_for_other_pid(self, old: int, limit: float = 60.0) -> int:
        """Wait until another process serves, and is ready."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            pid = self.main_pid()
            if pid not in (0, old) and self.client.state().get("status") == 200:
                return pid
            time.sleep(0.1)
        raise TimeoutError(f"no other process than {old} serves after {limit:g} s")

    def wait_for_state(self, unit: str, state: str, limit: float = 60.0) -> None:
        """Wait until *unit* is in *state*: what is started beside the service is so a bit later."""
        deadline = time.monotonic() + limit
        while (found := self.show(unit, "ActiveState")) != state:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{unit} is {found}, not {state}, after {limit:g} s")
            time.sleep(0.2)

    def contract(self) -> dict[str, str]:
        """Return run/db.env."""
        lines = self.sh("cat /run/edgepaas/db.env").splitlines()
        pairs = (line.split("=", 1) for line in lines if "=" in line)
        return {name: value.strip('"') for name, value in pairs}
