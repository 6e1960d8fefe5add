# SPDX-License-Identifier: Apache-2.0
"""What each route costs over a link: round trips to PostgreSQL, counted on the way."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from edgepaas.app import Box
from edgepaas.files.paths import find_paths
from tests.support.answers import json_of
from tests.support.hub_database import HubDatabase
from tests.support.nodes import Node
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay
from tests.support.telemetry_box import open_box

API = "/api/v1"
RULE = {"name": "hot", "metric": "none", "condition": "above", "threshold": 90}


@dataclass
class Served:
    """A box in ``primary`` whose way to PostgreSQL is counted."""

    client: FlaskClient
    box: Box
    relay: Relay

    def cost(self, ask: Callable[[], Any], status: int = 200) -> int:
        """Return the round trips of *ask*, a request that is answered with *status*."""
        before = self.relay.round_trips
        answer = ask()
        assert answer.status_code == status, answer.text
        return self.relay.round_trips - before


@pytest.fixture(scope="module")
def served(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    paths = find_paths({"EDGEPAAS_HOME": str(tmp_path_factory.mktemp("box"))})
    paths.create()
    name = postgres.create_database()
    with (
        Relay(postgres.port) as relay,
        open_box(paths, relay.reroute(postgres.url(name))) as opened,
    ):
        app, box = opened
        client = app.test_client()
        # The connection is made, and every statement has been sent.
        for _ in range(3):
            assert client.get(f"{API}/readings").status_code == 200
        yield Served(client, box, relay)
    postgres.drop_database(name)


def reading(**more: Any) -> dict[str, Any]:
    return {"device": "press", "metric": "temperature", "value": 1.5, **more}


def post_costs(served: Served, body: Any) -> list[int]:
    """Post *body* some times; the rules, which are kept for some seconds, cost one now and then."""
    client = served.client
    return [served.cost(lambda: client.post(f"{API}/readings", json=body), 201) for _ in range(4)]


def test_a_reading_costs_one(served: Served) -> None:
    costs = post_costs(served, reading())
    assert min(costs) == 1
    assert max(costs) <= 2


@pytest.mark.parametrize("number", [1, 2, 500])
def test_a_batch_costs_one(served: Served, number: int) -> None:
    costs = post_costs(served, [reading(device=f"d{n % 7}") for n in range(number)])
    assert min(costs) == 1
    assert max(costs) <= 2


@pytest.mark.parametrize(
    "path",
    ["readings", "readings?device=press&limit=2", "devices", "rules", "devices?name=press"],
)
def test_a_list_costs_one(served: Served, path: str) -> None:
    assert served.cost(lambda: served.client.get(f"{API}/{path}")) == 1


@pytest.mark.parametrize("kind", ["readings", "devices", "rules"])
def test_what_is_not_there_costs_one(served: Served, kind: str) -> None:
    path = f"{API}/{kind}/{uuid.uuid4()}"
    assert served.cost(lambda: served.client.get(path), 404) == 1


def test_a_reading_is_read_in_one(served: Served) -> None:
    identity = str(uuid.uuid4())
    served.client.post(f"{API}/readings", json=reading(id=identity))
    assert served.cost(lambda: served.client.get(f"{API}/readings/{identity}")) == 1


def test_a_device_costs_its_statements_and_one(served: Served) -> None:
    client, name = served.client, f"device {uuid.uuid4()}"
    assert (
        served.cost(lambda: client.post(f"{API}/devices", json={"name": name}), 201) <= 3
    )  # and the record
    identity = json_of(client.get(f"{API}/devices", query_string={"name": name}))["items"][0]["id"]
    path = f"{API}/devices/{identity}"
    assert served.cost(lambda: client.get(path)) == 1
    assert served.cost(lambda: client.patch(path, json={"description": "x"})) <= 4
    assert served.cost(lambda: client.delete(path), 204) <= 3
    assert served.cost(lambda: client.delete(path), 404) <= 2


def test_a_rule_costs_its_statements_and_one(served: Served) -> None:
    client = served.client
    assert served.cost(lambda: client.post(f"{API}/rules", json=RULE), 201) <= 3
    identity = json_of(client.get(f"{API}/rules"))["items"][-1]["id"]
    path = f"{API}/rules/{identity}"
    assert served.cost(lambda: client.get(path)) == 1
    assert served.cost(lambda: client.patch(path, json={"threshold": 91})) <= 4
    assert served.cost(lambda: client.delete(path), 204) <= 3


def test_a_batch_of_the_drainer_costs_three(
    tmp_path: Path, postgres: PostgresServer, hub_database: HubDatabase
) -> None:
    """The stream's row, the rows themselves, the mark with COMMIT."""
    with Relay(postgres.port) as relay:
        node = Node(tmp_path / "node", relay.reroute(hub_database.url), rows=50)
        costs = []
        for turn in range(4):
            for number in range(30):
                node.facts("press", 100 * turn + number)
            node.set("press", turn)
            before = relay.round_trips
            while node.waiting():
                node.drain_once()
            costs.append(relay.round_trips - before)
        node.close()
    assert hub_database.number("SELECT count(*) FROM readings") == 120
    # The first one makes the connection and reads the tables.
    assert max(costs[1:]) <= 3
