# SPDX-License-Identifier: Apache-2.0
"""Devices that post readings through the API and record what was acknowledged."""

import itertools
import threading
import time
from dataclasses import dataclass, field

from edgepaas.drill.scratch_box import ScratchBox

#: The most readings that are sent to fill the disk budget; many times what it holds.
MAX_READINGS = 150_000
_DEVICES = "/drill/devices"
_READINGS = "/drill/readings"
#: A reading takes about as much room as a real one.
_PADDING = "x" * 120
#: After so many readings, the row of the device, which is shared, is changed once.
_CHANGE_EVERY = 7
_PAUSE = 0.02
_PAUSE_AFTER_FAILURE = 0.1
#: The box checks its budget every few seconds; not much more than it holds is sent until then.
_PAUSE_OF_BULK = 0.1


@dataclass
class Device:
    """One device: it sends the numbers 1, 2, 3, …, repeating each until it is acknowledged."""

    name: str
    box: ScratchBox
    stop: threading.Event
    acknowledged: int = 0
    #: The highest number sent, acknowledged or not.
    sent: int = 0
    #: The highest number acknowledged as the description of the device.
    described: int = 0
    repeated: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Send until ``stop`` is set; a request in progress is still completed."""
        for number in itertools.count(1):
            if self.stop.is_set():
                return
            self.sent = number
            if not self._send_reading(number):
                return
            self.acknowledged = number
            if number % _CHANGE_EVERY == 0 and self._describe(number):
                self.described = number
            time.sleep(_PAUSE)

    def _send_reading(self, number: int) -> bool:
        readings = [{"device": self.name, "value": number}]
        key = f"{self.name}-{number}"
        return self._until_acknowledged("POST", _READINGS, readings, 201, key)

    def _describe(self, number: int) -> bool:
        # 404 is retried: the mirror may not have brought the device's row yet.
        path = f"{_DEVICES}/{self.name}"
        return self._until_acknowledged("PUT", path, {"description": str(number)}, 204)

    def _until_acknowledged(
        self, method: str, path: str, body: object, wanted: int, key: str = ""
    ) -> bool:
        """Repeat the request until it is acknowledged; False when it is refused or time is up."""
        give_up: float | None = None
        while True:
            status, answer = self.box.request(method, path, body, key=key)
            if status == wanted:
                return True
            if status not in (0, 404, 429, 500, 502, 503, 504, 507):
                self.problems.append(f"{method} {path} answered {status}: {answer}")
                return False
            if status == 500:
                self.problems.append(f"{method} {path} answered 500")
            if self.stop.is_set():
                give_up = give_up or time.monotonic() + 30.0
                if time.monotonic() > give_up:
                    return False
            self.repeated += 1
            time.sleep(_PAUSE_AFTER_FAILURE)


class DeviceLoad:
    """Several devices, each in a thread of its own."""

    def __init__(self, box: ScratchBox, count: int) -> None:
        self._stop = threading.Event()
        names = [f"drill-{number}" for number in range(1, count + 1)]
        self.devices = [Device(name, box, self._stop) for name in names]
        self._threads = [
            threading.Thread(target=device.run, name=device.name, daemon=True)
            for device in self.devices
        ]

    def start(self) -> None:
        """Start the devices."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the requests in progress; a second call does nothing."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(60.0)

    @property
    def acknowledged(self) -> int:
        """How many readings were acknowledged so far."""
        return sum(device.acknowledged for device in self.devices)

    @property
    def problems(self) -> list[str]:
        """Responses that must not occur."""
        return [f"{device.name}: {line}" for device in self.devices for line in device.problems]


@dataclass
class BulkDevice:
    """A device that sends many readings at a time, to use up the disk budget of the box."""

    box: ScratchBox
    size: int = 500
    acknowledged: int = 0
    sent: int = 0
    name: str = "drill-bulk"

    def until_full(self, limit: float) -> bool:
        """Send until the box answers 507 (Insufficient Storage); False if it does not in time."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline and self.acknowledged < MAX_READINGS:
            first = self.acknowledged + 1
            self.sent = max(self.sent, self.acknowledged + self.size)
            readings = [
                {"device": self.name, "value": number, "padding": _PADDING}
                for number in range(first, first + self.size)
            ]
            status, _ = self.box.request(
                "POST",
                _READINGS,
                readings,
                timeout=15.0,
                key=f"{self.name}-{first}",
            )
            if status == 201:
                self.acknowledged += self.size
                time.sleep(_PAUSE_OF_BULK)
            elif status == 507:
                return True
            else:
                time.sleep(_PAUSE_AFTER_FAILURE)
        return False
