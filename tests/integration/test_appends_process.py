# SPDX-License-Identifier: Apache-2.0
"""A real service that is stopped, or killed, while the loop has appends in work."""

import contextlib
import json
import signal
import sqlite3
import threading
import uuid
from pathlib import Path

import pytest

from tests.support.live_box import LiveBox
from tests.support.loop_box import LIMIT, Client, post
from tests.support.service_process import until

CLIENTS = 12


class Device:
    """Posts one reading after the other, each with an id; keeps its own list of them."""

    def __init__(self, port: int, number: int) -> None:
        self._port, self._name = port, f"press-{number}"
        self.acknowledged: list[str] = []
        self.sent: list[str] = []
        self.statuses: list[str] = []
        #: Whether the last answer announced the end of the connection.
        self.told = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        # A connection that ends without an answer leaves its last reading unacknowledged.
        with contextlib.suppress(OSError), Client(("127.0.0.1", self._port)) as client:
            while not self.told:
                self._post(client)

    def _post(self, client: Client) -> None:
        identity = str(uuid.uuid4())
        body = {"id": identity, "device": self._name, "metric": "temperature", "value": 1.0}
        self.sent.append(identity)
        client.send(post(json.dumps(body).encode()))
        answer = client.receive()
        self.statuses.append(answer.status[:3])
        if answer.status.startswith("201"):
            self.acknowledged.append(identity)
        self.told = answer.headers.get("Connection") == "close"


def stored(box: LiveBox) -> list[str]:
    with contextlib.closing(sqlite3.connect(box.paths.sqlite)) as connection:
        return [identity for (identity,) in connection.execute("SELECT id FROM readings")]


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_acknowledged_is_there_once(tmp_path: Path, ended_by: signal.Signals) -> None:
    with LiveBox(tmp_path) as box:
        devices = [Device(box.port, number) for number in range(CLIENTS)]
        enough = CLIENTS * 10
        until(lambda: sum(len(one.acknowledged) for one in devices) > enough, "work", LIMIT)
        assert box.process is not None
        if ended_by is signal.SIGTERM:
            box.process.signal(ended_by)
            assert box.process.wait(LIMIT) == 0
        else:
            box.kill_everything()
        for device in devices:
            device.thread.join(LIMIT)
            assert not device.thread.is_alive()
        found = stored(box)
        acknowledged = {identity for device in devices for identity in device.acknowledged}
        assert acknowledged <= set(found)
        assert len(found) == len(set(found))
        assert set(found) <= {identity for device in devices for identity in device.sent}
        # What came when the time to stop was over may be stored, and was told 503.
        assert {status for device in devices for status in device.statuses} <= {"201", "503"}
