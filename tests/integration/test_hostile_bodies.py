# SPDX-License-Identifier: Apache-2.0
"""A real service and bodies that are made to cost it memory and time."""

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.live_box import LiveBox

MOST = 8 * 1024 * 1024
#: Memory above idle, in bodies of the largest size.
BODIES = 2
#: What is kept of all of them, once they are answered.
KEPT = 3
#: The same for ten thousand readings that are stored: they are there as rows, too.
ROWS = 3


def _filled(begin: bytes, part: bytes, end: bytes) -> bytes:
    """Return as many of *part*, between commas, as the largest body takes."""
    room = MOST - 1 - len(begin) - len(end)
    count = (room + 1) // (len(part) + 1)
    return begin + b",".join([part] * count) + end


def _unknown_names() -> bytes:
    names = ",".join(f'"k{number}":0' for number in range(400_000))
    return b"{" + names.encode() + b"}"


def _unknown_names_in_items() -> bytes:
    item = json.dumps({f"k{number}": 0 for number in range(900)}).encode()
    return _filled(b"[", item, b"]")


BODIES_BY_NAME: dict[str, Callable[[], bytes]] = {
    "empty objects": lambda: _filled(b"[", b"{}", b"]"),
    "empty lists": lambda: _filled(b"[", b"[]", b"]"),
    "numbers": lambda: _filled(b"[", b"1.5", b"]"),
    "texts": lambda: _filled(b"[", b'"ab"', b"]"),
    "objects in a batch": lambda: _filled(b'{"readings":[', b'{"a":{}}', b"]}"),
    "unknown names": _unknown_names,
    "unknown names in items": _unknown_names_in_items,
    "depth": lambda: b"[" * (MOST - 1),
    "depth in objects": lambda: b'{"a":' * ((MOST - 1) // 5),
    "one text": lambda: b'"' + b"a" * (MOST - 3) + b'"',
    "one wide text": lambda: b'"' + b"a" * (MOST - 8) + "\U0001f600".encode() + b'"',
    "wide texts": lambda: _filled(b"[", b'"' + b"a" * 60_000 + "\U0001f600".encode() + b'"', b"]"),
    "long numbers": lambda: _filled(b"[", b"9" * 80, b"]"),
    "long fractions": lambda: _filled(b"[", b"1." + b"7" * 80, b"]"),
    "pairs of escapes": lambda: _filled(b"[", b'"' + b"\\ud83d\\ude00" * 80_000 + b'"', b"]"),
    "depth at its limit": lambda: b"[" * 31 + b",".join([b"1.5"] * 90_000) + b"]" * 31,
    "no UTF-8": lambda: b'["' + b"a" * (MOST - 5) + b"\xff",
    "commas in a text": lambda: b'["' + b"," * (MOST - 5) + b'"]',
    "blanks": lambda: b" " * (MOST - 1),
    "a long number": lambda: b"1" * (MOST - 1),
    "escapes": lambda: b'"' + b"\\u0041" * ((MOST - 3) // 6) + b'"',
}


def _readings() -> bytes:
    """As many readings as one body may hold, none like another."""
    readings = [
        {"device": f"d{n % 900}".ljust(190, "x"), "metric": f"m{n}".ljust(190, "y"), "value": n / 7}
        for n in range(10_000)
    ]
    return json.dumps(readings).encode()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBox]:
    with LiveBox(tmp_path_factory.mktemp("box")) as running:
        yield running


def test_the_largest_body_that_is_right_takes_no_more_however_full_the_file_is(
    box: LiveBox,
) -> None:
    """Each changes pages all over the file; what SQLite keeps of them must not add up."""
    body = _readings()
    reading = {"device": "d", "metric": "m", "value": 1.5}
    assert _post(box, json.dumps(reading).encode(), "application/json")[0] == 201
    for _ in range(3):
        idle = _memory(box, "VmRSS")
        Path(f"/proc/{box.pid_of('serve')}/clear_refs").write_text("5", encoding="ascii")
        assert _post(box, body, "application/json")[0] == 201
        above = (_memory(box, "VmHWM") - idle) / MOST
        assert above <= ROWS, f"{above:.2f} bodies"


def _memory(box: LiveBox, name: str) -> int:
    """Return VmHWM or VmRSS of the service, in bytes."""
    status = Path(f"/proc/{box.pid_of('serve')}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _post(box: LiveBox, body: bytes, media: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", box.port, timeout=120)
    connection.request("POST", "/api/v1/readings", body, {"Content-Type": media})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("media", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("name", BODIES_BY_NAME)
def test_no_body_takes_more_memory_than_two_of_the_largest(
    box: LiveBox, name: str, media: str
) -> None:
    """Measured by the kernel, over a service that has answered before; it is a 4xx."""
    reading = {"device": "d", "metric": "m", "value": 1.5}
    assert _post(box, json.dumps(reading).encode(), "application/json")[0] == 201
    idle = _memory(box, "VmRSS")
    Path(f"/proc/{box.pid_of('serve')}/clear_refs").write_text("5", encoding="ascii")
    body = BODIES_BY_NAME[name]()
    status, answer = _post(box, body, media)
    harmless = name == "blanks" and media != "application/json"
    assert 400 <= status < 500 or (harmless and status == 201), answer
    assert len(answer) < 50_000
    above = (_memory(box, "VmHWM") - idle) / MOST
    assert above <= BODIES, f"{above:.2f} bodies"


def test_what_large_bodies_took_is_given_back(tmp_path: Path) -> None:
    """A heap that each leaves a little larger ends at the unit's limit of memory."""
    with LiveBox(tmp_path / "box") as box:
        reading = {"device": "d", "metric": "m", "value": 1.5}
        assert _post(box, json.dumps(reading).encode(), "application/json")[0] == 201
        idle = _memory(box, "VmRSS")
        for make in BODIES_BY_NAME.values():
            assert _post(box, make(), "application/json")[0] >= 400
        kept = (_memory(box, "VmRSS") - idle) / MOST
        assert kept <= KEPT, f"{kept:.2f} bodies"
