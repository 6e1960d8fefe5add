# SPDX-License-Identifier: Apache-2.0
"""compose.yaml as it is, each profile: its boxes are ready, keep what they took and are watched."""

import contextlib
import http.client
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.system import compose, images
from tests.system.client import Answer, Client
from tests.system.compose import Compose
from tests.system.conftest import REQUIRED
from tests.system.roots import CACHE, only_one

LIMIT = 120.0
PROFILES = ("postgres", "fleet", "monitoring")
#: Each box, and the state that its profile is about.
STATES = {"box": "standalone", "app": "primary", "box1": "local-first", "box2": "local-first"}


@pytest.fixture(scope="module")
def project(containers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The project, of which nothing runs yet; there is one on a machine at a time."""
    with only_one(CACHE / "compose.lock"):
        compose.sweep()
        reason = compose.why_not()
        if reason:
            (pytest.fail if REQUIRED else pytest.skip)(f"no compose: {reason}")
        compose.stand_ins()
        with Compose(images.image(), tmp_path_factory.mktemp("compose")) as made:
            yield made


@pytest.fixture(scope="module")
def everything(project: Compose) -> Compose:
    """All profiles at once, every box in its state."""
    began = time.monotonic()
    project.up(*PROFILES)
    for name, state in STATES.items():
        project.client(name).wait_ready(LIMIT, word=state)
    print(f"everything is ready after {time.monotonic() - began:.1f} s")
    return project


def test_a_plain_up_is_one_box_and_what_it_took_outlives_a_down(project: Compose) -> None:
    """The first line of the file's own comment, and the last."""
    project.up()
    assert project.running() == {f"{project.project}_box_1"}
    box = project.client("box")
    box.wait_ready(LIMIT, word="standalone")
    assert box.request("POST", "/api/v1/readings", {}).status == 401
    box.token = project.exec("box", "edgepaas", "token", "create", "tests")
    kept = [box.write("press", float(value)) for value in range(5)]
    project.down()
    assert not project.running()
    project.up()
    box.wait_ready(LIMIT, word="standalone")
    assert sorted(box.stored("press")) == sorted(kept)
    box.write("press", 5.0)


def test_all_profiles_run_and_are_healthy(everything: Compose) -> None:
    assert everything.running() == {f"{everything.project}_{n}_1" for n in compose.services()}
    for name in (*STATES, "postgres"):
        assert everything.health(name) == "healthy"


def test_postgres_stopped_the_box_writes_on_and_brings_all_rows_home(everything: Compose) -> None:
    """'stop it and see': the name does not even resolve while PostgreSQL's container is away."""
    app = writer(everything, "app")
    kept = [app.write("outage", 1.0)]
    everything.compose("stop", "postgres", profiles=("postgres",))
    app.wait_ready(LIMIT, word="fallback")
    kept += [app.write("outage", float(value)) for value in range(20)]
    everything.compose("start", "postgres", profiles=("postgres",))
    began = time.monotonic()
    app.wait_ready(LIMIT, word="primary")
    print(f"handed back {time.monotonic() - began:.1f} s after 'start'")
    assert sorted(of_hub(everything, "outage")) == sorted(kept) == sorted(app.stored("outage"))


def test_what_each_box_of_the_fleet_took_reaches_the_hub(everything: Compose) -> None:
    kept = []
    for name in ("box1", "box2"):
        box = writer(everything, name)
        mine = [box.write("fleet", float(value)) for value in range(3)]
        assert sorted(box.stored("fleet")) == sorted(mine), "each box has its own rows"
        kept += mine
    wait(lambda: sorted(of_hub(everything, "fleet")) == sorted(kept), "the hub to have them")


def test_prometheus_sees_every_box_by_name_and_tells_alertmanager(everything: Compose) -> None:
    def watch(path: str, **query: str) -> Any:
        client = everything.client("prometheus")
        return ask(client, f"/api/v1/{path}?{urllib.parse.urlencode(query)}").body["data"]

    def seen() -> dict[str, str]:
        found = watch("query", query='up{job="edgepaas"}')["result"]
        return {one["metric"]["instance"]: one["value"][1] for one in found}

    wait(lambda: seen() == dict.fromkeys(STATES, "1"), "every box to be scraped")

    def rules() -> list[dict[str, Any]]:
        return [rule for group in watch("rules")["groups"] for rule in group["rules"]]

    assert {rule["type"] for rule in rules()} == {"alerting", "recording"}
    wait(lambda: {rule["health"] for rule in rules()} == {"ok"}, "every rule to be evaluated")
    assert len(watch("alertmanagers")["activeAlertmanagers"]) == 1
    assert ask(everything.client("alertmanager"), "/api/v2/status").status == 200


def test_down_and_up_again_every_volume_has_what_it_had(everything: Compose) -> None:
    """Boxes, PostgreSQL, what Prometheus measured and what Alertmanager was told to keep quiet."""
    boxes = {name: writer(everything, name) for name in STATES}
    kept = {name: box.write(f"kept-{name}", 1.0) for name, box in boxes.items()}
    quiet = everything.client("alertmanager").request(
        "POST", "/api/v2/silences",
        {"matchers": [{"name": "instance", "value": "box", "isRegex": False}],
         "startsAt": "2000-01-01T00:00:00Z", "endsAt": "2999-01-01T00:00:00Z",
         "createdBy": "tests", "comment": "kept"},
    ).body["silenceID"]  # fmt: skip
    everything.down(*PROFILES)
    assert not everything.running()
    everything.up(*PROFILES)
    for name, state in STATES.items():
        boxes[name].wait_ready(LIMIT, word=state)
        assert boxes[name].stored(f"kept-{name}") == [kept[name]]
    silences = ask(everything.client("alertmanager"), "/api/v2/silences").body
    assert [silence["id"] for silence in silences] == [quiet]
    everything.exec("prometheus", "test", "-d", "/prometheus/wal")


def writer(project: Compose, service: str) -> Client:
    """Return a client of the service that may write."""
    client = project.client(service)
    name = f"writer-{time.monotonic_ns()}"
    client.token = project.exec(service, "edgepaas", "token", "create", name)
    return client


def of_hub(project: Compose, device: str) -> list[str]:
    """Return the ids of a device's readings in PostgreSQL."""
    query = f"SELECT id FROM readings WHERE device = '{device}'"
    return project.exec(
        "postgres", "psql", "--username", "edgepaas", "--no-align", "--tuples-only",
        "--command", query,
    ).split()  # fmt: skip


def ask(client: Client, path: str) -> Answer:
    """Send a GET, again until somebody answers it with 200."""
    answers: list[Answer] = []

    def answered() -> bool:
        answers.append(client.get(path))
        return answers[-1].status == 200

    wait(answered, path)
    return answers[-1]


def wait(condition: Callable[[], bool], what: str) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + LIMIT
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return
        assert time.monotonic() < deadline, f"waited {LIMIT:g} s in vain for {what}"
        time.sleep(0.25)
