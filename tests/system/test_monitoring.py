# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus and a real Alertmanager watch a box and the image, with the rules we ship."""

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system import images
from tests.system.appliance import Appliance
from tests.system.checkout import REPOSITORY
from tests.system.client import Client
from tests.system.hub import DATABASE, Hub
from tests.system.images import Container
from tests.system.network import EDGE, HUB
from tests.system.webhook import Webhook

MONITORING = REPOSITORY / "packaging" / "monitoring"
PROGRAMS = ("prometheus", "prometheus-alertmanager", "promtool")
BOX, IMAGE = f"{EDGE}:8080", f"{EDGE}:8090"
LIMIT = 90.0

_MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")


@dataclass
class Watched:
    """A box, a container of the image, the PostgreSQL of both, and who watches them."""

    hub: Hub
    box: Appliance
    container: Container
    told: Webhook

    def prometheus(self, path: str, **query: str) -> Any:
        """Ask Prometheus; returns the answer's data."""
        return self._ask(9090, f"/api/v1/{path}?{urllib.parse.urlencode(query)}")["data"]

    def values(self, query: str) -> dict[str, float]:
        """Return a query's value of each instance."""
        found = self.prometheus("query", query=query)["result"]
        return {one["metric"].get("instance", ""): float(one["value"][1]) for one in found}

    def alerts(self) -> set[tuple[str, str]]:
        """Return what Alertmanager holds: the alert's name, and the instance."""
        found = self._ask(9093, "/api/v2/alerts?active=true")
        return {(a["labels"]["alertname"], a["labels"].get("instance", "")) for a in found}

    def _ask(self, port: int, path: str) -> Any:
        def ask() -> Any:
            connection = http.client.HTTPConnection(HUB, port, timeout=20)
            try:
                connection.request("GET", path)
                return json.loads(connection.getresponse().read())
            finally:
                connection.close()

        return self.hub.wire.hub.call(ask)


@pytest.fixture(scope="module")
def watched(
    containers: None, installed: Appliance, hub: Hub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """Both serve from PostgreSQL, and are scraped each second."""
    folder = tmp_path_factory.mktemp("monitoring")
    hub.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
    hub.execute(f"CREATE DATABASE {DATABASE}", "postgres")
    authority = folder / "hub.pem"
    authority.write_bytes(hub.authority)
    authority.chmod(0o644)
    folder.chmod(0o755)
    settings = {
        "DATABASE_URL": hub.url, "HANDBACK_AFTER": "2", "POSTGRES_HOLD": "2",
        "HANDBACK_PER_HOUR": "3600", "HANDBACK_ROWS": "100000",
    }  # fmt: skip
    with contextlib.ExitStack() as undo:
        container = undo.enter_context(
            Container(
                "watched", images.image(), "--volume", f"{authority}:/etc/hub.pem:ro",
                namespace=hub.wire.edge, DB_SSLROOTCERT="/etc/hub.pem", PORT="8090", **settings,
            )
        )  # fmt: skip
        box = undo.enter_context(
            Appliance("watched", installed.package, template=installed, namespace=hub.wire.edge)
        )
        box.write("/etc/edgepaas/hub.pem", hub.authority, 0o644)
        box.configure(DB_SSLROOTCERT="/etc/edgepaas/hub.pem", **settings)
        box.restart(word="primary")
        Client(hub.wire.edge, port=8090).wait_ready(word="primary")
        told = Webhook(hub)
        undo.callback(told.stop)
        write_configuration(folder, told)
        for name, *options in (
            ("prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=am",
             f"--web.listen-address={HUB}:9093", "--cluster.listen-address="),
            ("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb",
             f"--web.listen-address={HUB}:9090"),
        ):  # fmt: skip
            undo.enter_context(running(hub, folder, name, *options))
        found = Watched(hub, box, container, told)
        wait(lambda: found.values("up") == {BOX: 1.0, IMAGE: 1.0}, "both to be scraped")
        yield found


def write_configuration(folder: Path, told: Webhook) -> None:
    """Write our own configuration for this network; the rules as they are, in less time.

    Minutes become seconds in 'for', since nobody has an hour here; nothing else is changed.
    """
    prometheus = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    prometheus["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    prometheus["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"{HUB}:9093"]}]}]
    (job,) = prometheus["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [BOX, IMAGE]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    shutil.copyfile(MONITORING / "recording.yml", folder / "recording.yml")
    rules = (MONITORING / "alerting.yml").read_text()
    (folder / "alerting.yml").write_text(re.sub(r"for: (\d+)m\b", r"for: \1s", rules))
    manager = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
    manager["route"] |= {"group_wait": "1s", "group_interval": "1s", "receiver": "told"}
    manager["receivers"] = [
        {"name": "told", "webhook_configs": [{"url": told.url, "send_resolved": True}]}
    ]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(manager))


@contextlib.contextmanager
def running(hub: Hub, folder: Path, *command: str) -> Iterator[None]:
    """Run a program on the hub's host; it dies with this process."""
    log = folder / f"{command[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["ip", "netns", "exec", hub.wire.hub.name, "setpriv", "--pdeathsig", "KILL", *command],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield
    except BaseException:
        print(f"{command[0]}:\n{log.read_text(errors='replace')[-3000:]}")
        raise
    finally:
        process.kill()
        process.wait(20)


def wait(condition: Callable[[], bool], what: str, limit: float = LIMIT) -> float:
    """Wait until *condition* holds; returns the seconds that took."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, KeyError):
            if condition():
                return time.monotonic() - began
        assert time.monotonic() - began < limit, f"waited {limit:g} s in vain for {what}"
        time.sleep(0.25)


def test_every_rule_is_evaluated_and_none_fires_for_a_box_that_is_well(watched: Watched) -> None:
    rules = [rule for group in watched.prometheus("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == sum(
        text.count("- record:") + text.count("- alert:")
        for text in ((MONITORING / n).read_text() for n in ("recording.yml", "alerting.yml"))
    )

    def evaluated() -> bool:
        groups = watched.prometheus("rules")["groups"]
        return all(rule["health"] == "ok" for group in groups for rule in group["rules"])

    wait(evaluated, "every rule to be evaluated")
    wait(lambda: set(watched.values("instance:edgepaas_http_requests:rate5m")) == {BOX, IMAGE},
         "a recorded rate of both")  # fmt: skip
    assert watched.values('edgepaas_state{state="primary"}') == {BOX: 1.0, IMAGE: 1.0}
    assert not {name for name, _ in watched.alerts()} & {
        "EdgePaaSDown", "EdgePaaSFallback", "EdgePaaSDeadLetters", "EdgePaaSErrors",
        "EdgePaaSSyncStopped", "EdgePaaSRowsRefused",
    }  # fmt: skip


def test_postgres_cut_fires_for_both_and_resolves_when_it_returns(watched: Watched) -> None:
    both = {("EdgePaaSFallback", BOX), ("EdgePaaSFallback", IMAGE)}
    watched.hub.stop(crash=True)
    fired = wait(lambda: both <= watched.alerts(), "EdgePaaSFallback of both")
    for instance in (BOX, IMAGE):
        watched.told.wait_for(f"{instance} serves from SQLite: PostgreSQL is away")
    # Rows that wait are counted from outside as well.
    watched.box.writer.write("press", 1.0)
    wait(lambda: watched.values("edgepaas_sync_rows_waiting")[BOX] > 0, "rows that wait")
    watched.hub.start()
    resolved = wait(lambda: not both & watched.alerts(), "EdgePaaSFallback to be over", 150)
    print(f"fired after {fired:.1f} s, over {resolved:.1f} s after PostgreSQL was back")
    watched.told.wait_for('"status":"resolved"')
    wait(lambda: watched.values("edgepaas_sync_rows_waiting")[BOX] == 0, "the rows to be home")
    assert not both & watched.alerts()


def test_a_box_that_is_gone_is_missed(watched: Watched) -> None:
    """Nothing on it can tell; Prometheus does."""
    watched.container.kill()
    wait(lambda: ("EdgePaaSDown", IMAGE) in watched.alerts(), "EdgePaaSDown")
    watched.container.restart()
    wait(lambda: ("EdgePaaSDown", IMAGE) not in watched.alerts(), "EdgePaaSDown to be over")
    assert ("EdgePaaSDown", BOX) not in watched.alerts(), "the box beside it was never missed"
