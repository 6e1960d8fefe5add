# SPDX-License-Identifier: Apache-2.0
"""What each of telemetry's routes costs in ``primary``, in round trips and in seconds.

PostgreSQL stands behind a relay with a round trip of 100 ms. The relay counts: bytes of
the client after an answer are a new round trip, whatever they are.
"""

import contextlib
import http.client
import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.counting_relay import CountingRelay
from tests.bench.loads import READING
from tests.bench.servers import Server, running_box, tcp_ports
from tests.support.postgres_server import PostgresServer, temporary_home

ROUND_TRIP = 0.1
#: Seconds that a request may take; the link is slow, and a machine may be as well.
LIMIT = 120.0


@dataclass(frozen=True)
class Route:
    """A request; *aim* is the most seconds that it should take over this link, 0: none."""

    name: str
    method: str
    path: str
    body: Callable[[], Any] = lambda: None
    aim: float = 0.0


def _reading(**fields: object) -> dict[str, object]:
    return {**READING, "device": "device", **fields}


def _new_name() -> str:
    return f"new-{uuid.uuid4()}"


def routes(ids: dict[str, str]) -> list[Route]:
    """Return every route of telemetry; *ids* of a reading, a device and a rule that are there."""
    rule = {"metric": "pressure", "condition": "above", "threshold": 1, "name": "a rule"}
    return [
        Route("POST a reading", "POST", "readings", _reading, aim=0.25),
        Route("POST a new device's", "POST", "readings", lambda: _reading(device=_new_name())),
        Route("POST 100 readings", "POST", "readings", lambda: [_reading()] * 100),
        Route("GET 100 readings", "GET", "readings?limit=100", aim=0.15),
        Route("GET a reading", "GET", f"readings/{ids['readings']}", aim=0.15),
        Route("POST a device", "POST", "devices", lambda: {"name": _new_name()}),
        Route("GET devices", "GET", "devices", aim=0.15),
        Route("GET a device", "GET", f"devices/{ids['devices']}", aim=0.15),
        Route(
            "PATCH a device", "PATCH", f"devices/{ids['devices']}",
            lambda: {"description": _new_name()},
        ),
        Route("POST a rule", "POST", "rules", lambda: rule),
        Route("GET rules", "GET", "rules", aim=0.15),
        Route("GET a rule", "GET", f"rules/{ids['rules']}", aim=0.15),
        Route(
            "PATCH a rule", "PATCH", f"rules/{ids['rules']}", lambda: {"name": _new_name()},
        ),
        Route("DELETE a device", "DELETE", "devices/{device}"),
        Route("GET the status", "GET", "status"),
    ]  # fmt: skip


def measure_round_trips(
    home: Path, *, rounds: int, most: int | None = None
) -> list[dict[str, Any]]:
    """Ask for each route (the first *most*) *rounds* times, and print a line for it."""
    with box_in_primary(home) as (server, relay):
        ids = _prepare(server)
        print(f"{'route':<22}{'round trips (in all)':>22}{'seconds':>9}  aim")
        found = []
        for route in routes(ids)[:most]:
            found.append(_measure(route, server, relay, rounds))
            print(_line(found[-1]), flush=True)
    return found


@contextlib.contextmanager
def box_in_primary(home: Path) -> Iterator[tuple[Server, CountingRelay]]:
    """Run a box that PostgreSQL serves, over a link of ROUND_TRIP seconds."""
    postgres = PostgresServer(temporary_home())
    try:
        postgres.create_cluster()
        postgres.start()
        with CountingRelay(postgres.port, delay=ROUND_TRIP / 2) as relay:
            url = relay.reroute(postgres.url(postgres.create_database()))
            with running_box(home, DATABASE_URL=url) as server:
                status, body = _ask(server, "GET", "/health/ready")
                if status != 200 or body["state"] != "primary":
                    raise RuntimeError(f"the box is not in primary: {status} {body}")
                yield server, relay
    finally:
        postgres.stop()
        postgres.remove()


def _measure(route: Route, server: Server, relay: CountingRelay, rounds: int) -> dict[str, Any]:
    """The round trips of the busiest connection until the answer, the least of the rounds.

    Others run beside it, in their own time: the rules read what was stored, a watch asks
    whether the server is there. They are in the count of all.
    """
    counts, beside, times, statuses = [], [], [], set()
    for _ in range(rounds):
        path = f"/api/v1/{route.path}"
        if "{device}" in path:
            _, made = _ask(server, "POST", "/api/v1/devices", {"name": _new_name()})
            path = path.format(device=made["id"])
        ports = tcp_ports(server.pid)
        before = relay.round_trips()
        began = time.perf_counter()
        status, _ = _ask(server, route.method, path, route.body())
        times.append(time.perf_counter() - began)
        after = relay.round_trips()
        deltas = [
            count - before.get(port, 0)
            for port, count in after.items()
            if port in ports or port in tcp_ports(server.pid)
        ]
        counts.append(max(deltas, default=0))
        beside.append(sum(deltas))
        statuses.add(status)
    return {
        "route": route.name, "round_trips": min(counts), "in_all": min(beside),
        "seconds": statistics.median(times), "aim": route.aim, "statuses": sorted(statuses),
    }  # fmt: skip


def _prepare(server: Server) -> dict[str, str]:
    """Make a device, a reading and a rule, and ask everything once, so that nothing is cold."""
    api = "/api/v1/"
    _ask(server, "POST", f"{api}readings", [_reading()] * 100)
    rule = {"metric": "humidity", "condition": "above", "threshold": 1, "name": "the rule"}
    _ask(server, "POST", f"{api}rules", rule)
    ids = {}
    for name in ("readings", "devices", "rules"):
        status, page = _ask(server, "GET", f"{api}{name}?limit=1")
        if status != 200:
            raise RuntimeError(f"GET {name}: {status} {page}")
        ids[name] = page["items"][0]["id"]
    return ids


def _ask(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        text = json.dumps(body) if body is not None else None
        connection.request(method, path, text, headers)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    return answer.status, json.loads(content) if content else None


def _line(row: dict[str, Any]) -> str:
    trips = f"{row['round_trips']} ({row['in_all']})"
    aim = ""
    if row["aim"]:
        aim = f"{'≤' if row['seconds'] <= row['aim'] else 'ABOVE'} {row['aim']:g}"
    failed = [status for status in row["statuses"] if status >= 300]
    notes = f"  answered with {failed}" if failed else ""
    return f"{row['route']:<22}{trips:>22}{row['seconds']:>9.2f}  {aim}{notes}"
