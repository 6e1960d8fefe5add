# SPDX-License-Identifier: Apache-2.0
"""Alerts on a booted box: units that fail, a network that is cut, a power cut, and the way back."""

import json
import time
from collections.abc import Callable

import pytest

from tests.system.appliance import Appliance

HOOK = "http://127.0.0.1:9099/hook"
#: Run inside the box, where the receiver stands for the far side of its network.
RECEIVER = """
import http.server, sys
class Take(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/var/tmp/received", "ab") as file:
            file.write(body + b"\\n")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 9099), Take).serve_forever()
"""


class Alerts:
    """What the box's receiver took."""

    def __init__(self, box: Appliance) -> None:
        self.box = box

    def start(self) -> None:
        """Bring the far side up."""
        self.box.write("/var/tmp/receiver.py", RECEIVER)
        self.box.sh("systemd-run --quiet --unit=receiver python3 /var/tmp/receiver.py")

    def stop(self) -> None:
        """Cut the way to it."""
        self.box.sh("systemctl stop receiver; systemctl reset-failed receiver || :", check=False)

    def received(self) -> list[dict[str, object]]:
        """Return every message, in the order in which they came."""
        lines = self.box.sh("cat /var/tmp/received 2>/dev/null || :").splitlines()
        return [json.loads(line) for line in lines]

    def wait_for(self, look: Callable[[list[dict[str, object]]], bool], limit: float = 120) -> (
        list[dict[str, object]]
    ):  # fmt: skip
        """Wait until *look* is content with what was received."""
        deadline = time.monotonic() + limit
        while not look(found := self.received()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"received only: {json.dumps(found, indent=1)[-3000:]}")
            time.sleep(0.5)
        return found


@pytest.fixture
def alerts(appliance: Appliance) -> Alerts:
    appliance.configure(ALERT_WEBHOOK_URL=HOOK)
    appliance.restart()
    return Alerts(appliance)


def said(messages: list[dict[str, object]], what: str, fingerprint: str) -> bool:
    """Whether a message of one kind about one cause is among *messages*."""
    return any(m["what"] == what and m["fingerprint"] == fingerprint for m in messages)


def test_an_alert_is_told_at_once_and_nothing_stays_resident(alerts: Alerts) -> None:
    box = alerts.box
    alerts.start()
    box.sh("edgepaas alert 'a test of the box' --fingerprint tested")
    found = alerts.wait_for(lambda messages: said(messages, "raised", "tested"), 30)
    assert found[-1]["box"] == "box"
    box.wait_for_state("edgepaas-alerts.service", "inactive")
    assert box.sh("ls /var/spool/edgepaas/alerts/new") == ""
    refused = box.exec(
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        "edgepaas", "alert", "not me", check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "sudo edgepaas alert" in refused.stderr


def test_a_unit_that_fails_raises_one_and_what_waited_goes_out_after_the_next_boot(
    alerts: Alerts,
) -> None:
    """Nobody is reachable while the service is killed and the power is cut."""
    box = alerts.box
    pid = box.main_pid()
    box.sh(f"kill -9 {pid}")
    box.wait_for_other_pid(pid)
    box.sh("edgepaas alert 'once more' --fingerprint other --severity critical")
    deadline = time.monotonic() + 60
    while '"sending": {' not in box.sh("cat /var/spool/edgepaas/alerts/conditions/*", check=False):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    box.kill()
    box.boot()
    box.client.wait_ready()
    alerts.start()
    found = alerts.wait_for(
        lambda messages: (
            any(m["fingerprint"] == "unit serve" for m in messages)
            and any(m["fingerprint"] == "other" for m in messages)
        ),
        200,
    )
    keys = [m["key"] for m in found]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("how", ["", "--runtime"])
def test_a_masked_deliverer_is_noticed_and_the_way_back_delivers(alerts: Alerts, how: str) -> None:
    """The service notices it while it runs, before anything is late."""
    box = alerts.box
    alerts.start()
    units = "edgepaas-alerts.path edgepaas-alerts.service edgepaas-alerts-due.service"

    def check() -> str:
        checks = box.client.state().get("checks", [])
        return str(next((one["message"] for one in checks if one["name"] == "alerts"), ""))

    def wait_for_check(*, masked: bool) -> None:
        deadline = time.monotonic() + 120
        while not (words := check()) or ("systemctl unmask" in words) is not masked:
            assert time.monotonic() < deadline, words
            time.sleep(0.5)

    box.sh(f"systemctl mask --now {how} {units}")
    box.sh("edgepaas alert 'the boiler is dry' --severity critical --fingerprint boiler")
    wait_for_check(masked=True)
    assert box.client.state()["status"] == 200
    assert "edgepaas-alerts.path" in box.sh("edgepaas doctor", check=False)
    assert not said(alerts.received(), "raised", "boiler")
    box.sh(f"systemctl unmask {how} {units}; systemctl start edgepaas-alerts.path")
    alerts.wait_for(lambda messages: said(messages, "raised", "boiler"))
    wait_for_check(masked=False)


def test_the_unit_is_as_closed_as_the_others(alerts: Alerts) -> None:
    text = alerts.box.sh("systemd-analyze security --no-pager edgepaas-alerts.service | tail -1")
    exposure = float(text.split(":")[1].split()[0])
    assert exposure <= 1.5
