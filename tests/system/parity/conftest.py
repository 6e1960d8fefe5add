# SPDX-License-Identifier: Apache-2.0
"""Each test here runs in every home; what came of it is kept for the table in the README."""

import contextlib
import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.appliance import Appliance
from tests.system.checkout import REPOSITORY
from tests.system.client import Client
from tests.system.hub import DATABASE, Hub
from tests.system.parity.homes import Checkout, Home, Image, Package
from tests.system.webhook import Webhook

RESULTS = Path(os.environ.get("EDGEPAAS_PARITY_RESULTS") or REPOSITORY / "build" / "parity.json")
#: How long anything may take, in seconds.
LIMIT = float(os.environ.get("EDGEPAAS_PARITY_LIMIT", "60"))
HOMES = ("make run", "package", "image")
_outcomes: dict[str, dict[str, str]] = {}


class Box:
    """A home with a box in it, and what the tests do to it."""

    def __init__(self, home: Home, hub: Hub, webhook: Webhook) -> None:
        self.home = home
        self.hub = hub
        self.webhook = webhook
        self._token = ""
        self._authority = ""
        self._settings: dict[str, str] | None = None

    @property
    def client(self) -> Client:
        """A client on the box itself, without a token."""
        return Client(self.home.namespace)

    @property
    def writer(self) -> Client:
        """A client on the box itself that may write."""
        if not self._token:
            status, printed = self.home.command("token", "create", "parity")
            assert status == 0
            self._token = printed.strip()
        client = self.client
        client.token = self._token
        return client

    @property
    def hub_settings(self) -> dict[str, str]:
        """What a box needs to know to reach PostgreSQL."""
        if not self._authority:
            self._authority = self.home.place("hub.pem", self.hub.authority)
        return {"DATABASE_URL": self.hub.url, "DB_SSLROOTCERT": self._authority}

    def be(self, word: str, **settings: str) -> dict[str, Any]:
        """Have it run with these settings, in the state *word*; returns /health/ready."""
        settings = {"ALERT_WEBHOOK_URL": self.webhook.url, **settings}
        if settings != self._settings:
            if self._settings is not None:
                self.home.stop()
            self._settings = None
            self.home.start(**settings)
            self._settings = settings
        return self.client.wait_ready(LIMIT, word=word)

    def restart(self) -> None:
        """Stop it in order, and start it again as it was."""
        self.home.stop()
        self.home.start(**(self._settings or {}))

    def power_cut(self) -> None:
        """Kill everything in it, and switch it on again."""
        self.home.kill()
        self.home.start(**(self._settings or {}))

    def json(self, *command: str) -> Any:
        """Return what a command prints with --json; it has to end with 0."""
        status, printed = self.home.command(*command, "--json")
        assert status == 0, printed
        return json.loads(printed)


@pytest.fixture(scope="module", params=HOMES, ids=lambda name: name.replace(" ", "-"))
def box(request: pytest.FixtureRequest, hub: Hub) -> Iterator[Box]:
    """A box in one of its homes; each is made once for all tests, and starts empty."""
    hub.wire.heal()
    hub.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
    hub.execute(f"CREATE DATABASE {DATABASE}", "postgres")
    home: Home
    if request.param == "make run":
        home = Checkout(hub.wire.edge)
    elif request.param == "package":
        installed: Appliance = request.getfixturevalue("installed")
        home = Package(hub.wire.edge, installed)
    else:
        request.getfixturevalue("containers")
        request.getfixturevalue("package")  # its downloads are the image's as well
        home = Image(hub.wire.edge)
    with contextlib.ExitStack() as undo:
        webhook = Webhook(hub)
        undo.callback(webhook.stop)
        undo.callback(home.destroy)
        home.create()
        yield Box(home, hub, webhook)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what came of a test in a home; add what the home says to a failure."""
    report = yield
    callspec = getattr(item, "callspec", None)
    if callspec is None or "box" not in callspec.params:
        return report
    home = callspec.params["box"]
    group = item.cls.__doc__ if isinstance(item, pytest.Function) and item.cls else None
    group = group.splitlines()[0] if group else "other"
    name = f"{group}::{item.name.replace(home.replace(' ', '-'), '').strip('[]-')}"
    outcomes = _outcomes.setdefault(name, {})
    counts = report.when == "call" or report.outcome != "passed"
    if counts and outcomes.get(home) != "failed":
        outcomes[home] = report.outcome
    if report.failed and isinstance(item, pytest.Function) and "box" in item.funcargs:
        box = item.funcargs["box"]
        assert isinstance(box, Box)
        report.sections.append((f"the home '{home}'", box.home.report()))
    return report


def pytest_sessionfinish() -> None:
    """Keep what was found."""
    if _outcomes:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps({"homes": HOMES, "tests": _outcomes}, indent=1) + "\n")
