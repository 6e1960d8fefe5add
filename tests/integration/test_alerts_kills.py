# SPDX-License-Identifier: Apache-2.0
"""Writers and the deliverer killed at any moment: no accepted alert is lost or told under two keys.

6 rounds; 1,000 with EDGEPAAS_SOAK=1.
"""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgepaas.alerts.delivery.operator_actions import retry
from edgepaas.alerts.spool.alert import read_alert
from edgepaas.alerts.spool.checksummed_json import read_checksummed
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings
from tests.support.receivers import Handler, Receiver, receiving

ROUNDS = 1000 if os.environ.get("EDGEPAAS_SOAK") else 6
EDGEPAAS = (sys.executable, "-m", "edgepaas")

#: Says what it is about to raise and what was accepted, a line each.
WRITER = """
import sys, time
from edgepaas.alerts.spool.accept import Spool
from edgepaas.files.paths import find_paths
spool, name = Spool(find_paths()), sys.argv[1]
for number in range(8):
    text = f"alert {name}.{number} ends"
    print("try", text, flush=True)
    spool.accept(text, fingerprint="" if number % 3 else f"f{number % 2}", severity="critical")
    print("ok", text, flush=True)
    time.sleep(0.02)
time.sleep(60)
"""


def environment(paths: Paths) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "EDGEPAAS_HOME": paths.home}


@contextmanager
def running(*command: str, paths: Paths, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("ab") as file:
        process = subprocess.Popen(
            command, env=environment(paths), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_a_thousand_kills_lose_nothing(paths: Paths, tmp_path: Path) -> None:
    seed = int(os.environ.get("EDGEPAAS_SEED", "0")) or random.randrange(10**6)
    print(f"EDGEPAAS_SEED={seed}")
    chance = random.Random(seed)
    said = tmp_path / "said"
    answered = threading.Event()

    def answer(receiver: Receiver, handler: Handler) -> None:
        handler.send_response(200 if chance.random() < 0.9 else 500)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        handler.wfile.flush()
        answered.set()

    with receiving(answer) as receiver:
        Settings.of(ALERT_WEBHOOK_URL=receiver.url, ALERT_WINDOW="0").write(paths.env_contract)
        kills = number = 0
        while kills < ROUNDS:
            writer = (sys.executable, "-c", WRITER, str(number))
            deliver = (*EDGEPAAS, "alerts", "deliver")
            answered.clear()
            with (
                running(*writer, paths=paths, output=said),
                running(*deliver, paths=paths, output=tmp_path / "log") as delivering,
            ):
                moment = chance.choice((answered.is_set, taken_out(paths), written(paths)))
                # A run whose only channel is in a pause ends by itself: nothing to kill.
                end = time.monotonic() + 120
                while not moment() and delivering.poll() is None:
                    assert time.monotonic() < end, "it neither sends nor ends"
                    time.sleep(0.001)
                time.sleep(chance.choice((0.0, chance.uniform(0, 0.01), chance.uniform(0, 0.1))))
                killed = delivering.poll() is None
            kills, number = kills + killed, number + 1
            assert number < 2 * ROUNDS + 10, "hardly a run was killed: nothing was tested"
            readable(paths)
            if not killed or number % 10 == 0 or kills == ROUNDS:
                # Else the killed runs fall behind further and further.
                receiver.replies = [200]
                drain(paths)
                check(receiver, said)
                receiver.replies = [answer]
        accepted = said.read_text(encoding="utf-8").count("ok ")
        print(f"{kills} deliverers killed, {number} writers, {accepted} alerts accepted")
        assert accepted > ROUNDS, "hardly anything was accepted: nothing was tested"
    assert not list((paths.alerts / "corrupt").iterdir())
    assert not list((paths.alerts / "dead").iterdir())


def taken_out(paths: Paths) -> Callable[[], bool]:
    """Whether an alert has been taken out of new/ since this was asked first."""
    seen: set[str] = set()

    def look() -> bool:
        there = set(names(paths.alerts / "new"))
        gone = bool(seen - there)
        seen.update(there)
        return gone

    return look


def written(paths: Paths) -> Callable[[], bool]:
    """Whether a condition has been written since this was made."""
    before = changed(paths)
    return lambda: changed(paths) != before


def changed(paths: Paths) -> int:
    folder = paths.alerts / "conditions"
    return folder.stat().st_mtime_ns if folder.is_dir() else 0


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def drain(paths: Paths) -> None:
    """Have everything told, whatever pause a channel is in."""
    for _ in range(20):
        if not retry(paths).waiting and not list((paths.alerts / "new").iterdir()):
            return
    raise AssertionError("it is not told though its receiver takes it")


def readable(paths: Paths) -> None:
    """Whatever was killed: every accepted alert is whole."""
    new = paths.alerts / "new"
    for path in new.iterdir() if new.is_dir() else ():
        read_alert(read_checksummed(path))


def check(receiver: Receiver, said: Path) -> None:
    lines = said.read_text(encoding="utf-8").splitlines()
    tried = {line[4:] for line in lines if line.startswith("try ")}
    accepted = {line[3:] for line in lines if line.startswith("ok ")}
    keys: dict[str, set[str]] = defaultdict(set)
    new: dict[str, int] = {}
    for request in receiver.requests:
        document = request.document
        assert document["key"] == request.key
        assert new.setdefault(request.key, document["new"]) == document["new"]
        # A digest of many names each in a line of its own.
        for text in re.findall(r"alert \d+\.\d+ ends", " ".join(
            [document["message"], *(document["details"] if document["what"] == "digest" else ())]
        )):  # fmt: skip
            keys[text].add(request.key)
    alone = {text for text in accepted if int(text.split(".")[1].split()[0]) % 3}
    assert not alone - keys.keys(), "accepted and never told"
    twice = {text: found for text, found in keys.items() if text in alone and len(found) > 1}
    assert not twice, "told under two keys"
    assert len(accepted) <= sum(new.values()) <= len(tried)
