# SPDX-License-Identifier: Apache-2.0
"""The container image: small, closed, and as hard to lose a write with as an installed box."""

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import images
from tests.system.checkout import REPOSITORY
from tests.system.client import Writers, reading_of
from tests.system.hub import DATABASE, Hub
from tests.system.images import Container
from tests.system.repack import GOOD, later_build

MOST_ABOVE_BASE = 60_000_000  # bytes
SHELLS = ("/bin/sh", "/bin/bash", "/bin/dash")


@pytest.fixture(scope="module")
def image(containers: None, package: Path) -> str:
    """The image under test. *package* is built first: the image takes the same downloads."""
    return images.image()


@pytest.fixture
def container(image: str) -> Iterator[Container]:
    """A container with a volume of its own, ready, without a PostgreSQL."""
    with Container("box", image) as running:
        running.ready()
        yield running


@pytest.fixture
def server(hub: Hub) -> Iterator[Hub]:
    """A real PostgreSQL with an empty database at the far end of a whole wire."""
    hub.wire.heal()
    hub.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
    hub.execute(f"CREATE DATABASE {DATABASE}", "postgres")
    yield hub
    hub.wire.heal()


@contextlib.contextmanager
def on_postgres(image: str, hub: Hub, folder: Path, **settings: str) -> Iterator[Container]:
    """A container that serves from the hub and hands back to it quickly."""
    authority = folder / "hub.pem"
    authority.write_bytes(hub.authority)
    authority.chmod(0o644)
    settings = {
        "DATABASE_URL": hub.url, "DB_SSLROOTCERT": "/etc/hub.pem", "HANDBACK_AFTER": "2",
        "POSTGRES_HOLD": "2", "HANDBACK_PER_HOUR": "3600", "HANDBACK_ROWS": "100000", **settings,
    }  # fmt: skip
    with Container(
        "cloud", image, "--volume", f"{authority}:/etc/hub.pem:ro",
        namespace=hub.wire.edge, **settings,
    ) as running:  # fmt: skip
        running.ready(word="primary")
        yield running


# -- what it is --


def test_it_is_small_and_says_what_it_is(image: str) -> None:
    found = images.inspect(image)
    above = found["Size"] - images.inspect(images.base_image())["Size"]
    print(f"{above / 1e6:.1f} MB ({above / 1024**2:.1f} MiB) above the base")
    assert above < MOST_ABOVE_BASE
    config = found["Config"]
    assert config["User"].split(":")[0].isdigit(), "a cluster has to see that it is not root"
    assert config["User"].split(":")[0] != "0"
    assert config["Entrypoint"] == [
        "/usr/bin/env", "--block-signal=TERM,INT", "/usr/bin/edgepaas",
    ]  # fmt: skip
    assert config["Cmd"] == ["up"]
    assert found["Healthcheck"]["Test"] == ["CMD", "/usr/bin/edgepaas", "status"]
    assert set(config["Volumes"]) == {"/var/lib/edgepaas"}
    assert config.get("StopSignal") in ("SIGTERM", "15")
    said = images.podman(
        "run", "--rm", *images.LIMITS, "--network", "none", image, "--version"
    ).split()
    assert said == ["edgepaas", config["Labels"]["org.opencontainers.image.version"]]


def test_it_serves_without_a_shell_a_right_or_a_place_to_write_but_two(
    image: str, tmp_path: Path
) -> None:
    """The shells are hidden; every process is the image's user's, and can gain nothing."""
    hidden = tmp_path / "hidden"
    hidden.touch(mode=0o000)
    options = [part for shell in SHELLS for part in ("--volume", f"{hidden}:{shell}:ro")]
    with Container("closed", image, *options) as box:
        seconds = box.ready(word="standalone")
        print(f"ready {seconds:.1f} s after 'podman run'")
        box.writer.write("press", 1.5)
        assert len(box.writer.stored("press")) == 1
        box.exec("edgepaas", "status")
        images.podman("healthcheck", "run", box.name)
        inside = Path(f"/proc/{box.pids()[0]}")
        mounts = [line.split() for line in (inside / "mounts").read_text().splitlines()]
        writable = {
            place for _, place, _, options, *_ in mounts
            if "rw" in options.split(",") and not place.startswith(("/proc", "/dev", "/sys"))
        }  # fmt: skip
        assert writable == {"/var/lib/edgepaas", "/run"}
        for pid in box.pids():
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
            )  # fmt: skip
            assert status["Uid"].split()[0] == "10001"
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
            assert status["NoNewPrivs"] == "1"
        kept = {path.name for path in (inside / "root/var/lib/edgepaas").iterdir()}
        assert {"edgepaas.db", "spool", "node.json"} <= kept


def test_a_client_beyond_loopback_needs_a_token_as_on_an_installed_box(
    container: Container,
) -> None:
    """Production is what the package says; the image changes nothing about it."""
    answer = container.client.request("POST", "/api/v1/readings", reading_of("press", 1.0))
    assert answer.status == 401
    assert container.client.get("/health/ready").status == 200
    assert container.client.get("/metrics").status == 200


def test_its_api_says_of_itself_what_the_documents_say(container: Container) -> None:
    """That stands in docstrings, of which the image keeps those alone."""
    documented = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")
    paths = container.client.get("/openapi.json").body["paths"]
    operations = [
        operation for methods in paths.values() for name, operation in methods.items()
        if name != "parameters"
    ]  # fmt: skip
    assert len(operations) >= 20
    for operation in operations:
        assert operation["summary"] and operation["summary"] in documented


# -- what it survives --


def test_killed_restarted_and_upgraded_it_has_every_acknowledged_reading(
    image: str, package: Path, tmp_path: Path
) -> None:
    """All on one volume; the later build migrates what the earlier one wrote."""
    later = images.later_image(
        image, later_build(package, tmp_path, version="0.2.0", migration=GOOD)
    )
    with Container("kept", image) as box:
        box.ready()
        with Writers(box.writer) as writers:
            writers.wait_for(50)
            box.kill()
        box.restart()
        print(f"ready {box.ready():.1f} s after 'podman start'")
        kept = set(writers.acknowledged)
        assert kept <= set(box.writer.stored("load"))
        podman_stop(box)
        box.remove()
        box.image = later
        box.start()
        print(f"upgraded, with a migration: ready {box.ready():.1f} s after 'podman run'")
        assert box.client.wait_ready()["build_version"] == "0.2.0"
        assert kept <= set(box.writer.stored("load"))
        box.writer.write("load", 2.0)


def test_sigterm_answers_what_is_under_way_and_ends_with_0(container: Container) -> None:
    """A reading whose body comes slowly is taken, after the signal, and is there afterwards."""
    reading = reading_of("slow", 1.0)
    body = json.dumps(reading).encode()
    token = container.writer.token

    def half_before_and_half_after() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=30)
        connection.putrequest("POST", "/api/v1/readings")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Authorization", f"Bearer {token}")
        connection.endheaders()
        connection.send(body[:10])
        time.sleep(0.5)  # it is being read
        images.podman("kill", "--signal", "TERM", container.name)
        time.sleep(1.0)
        connection.send(body[10:])
        return connection.getresponse().status

    assert container.namespace.call(half_before_and_half_after) == 201
    assert container.wait() == 0
    container.restart()
    container.ready()
    assert container.writer.stored("slow") == [reading["id"]]


def test_a_plain_stop_of_docker_is_long_enough(container: Container) -> None:
    """Docker kills after 10 s; an idle connection is no reason to wait that long."""
    with Writers(container.writer, threads=2) as writers:
        writers.wait_for(20)
        began = time.monotonic()
        podman_stop(container)
        took = time.monotonic() - began
    print(f"stopped under load in {took:.1f} s")
    container.restart()
    container.ready()
    assert set(writers.acknowledged) <= set(container.writer.stored("load"))


def test_orphans_that_are_left_to_pid_1_are_reaped(container: Container) -> None:
    """A process that was started by 'exec' and lost its parent becomes PID 1's own."""
    orphan = (
        "import os, time\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        "        while not os.path.exists('/var/lib/edgepaas/end'):\n"
        "            time.sleep(0.1)\n"
        "        os._exit(0)\n"
    )
    before = set(container.pids())
    container.exec("python3", "-c", orphan)
    orphans = set(container.pids()) - before
    assert len(orphans) == 5
    container.exec("python3", "-c", "open('/var/lib/edgepaas/end', 'w')")
    deadline = time.monotonic() + 60
    while left := [pid for pid in orphans if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


def test_a_killed_service_comes_back_in_the_same_container(
    container: Container,
) -> None:
    """What a unit's Restart= does on a box, PID 1 does here."""
    first = container.first_pid()
    serving = {pid for pid in container.pids() if b"serve" in cmdline(pid)}
    assert serving
    for pid in serving:
        container.exec("python3", "-c", f"import os; os.kill({in_container(pid)}, 9)")
    deadline = time.monotonic() + 60
    while not {p for p in container.pids() if b"serve" in cmdline(p)} - serving:
        assert time.monotonic() < deadline, container.logs()[-3000:]
        time.sleep(0.1)
    container.ready()
    assert container.first_pid() == first


# -- with a PostgreSQL --


def test_postgres_lost_and_back_it_goes_round_and_every_write_is_home(
    image: str, server: Hub, tmp_path: Path
) -> None:
    """Exit 75 twice in one container: to SQLite, and back after the rows are delivered."""
    with on_postgres(image, server, tmp_path) as box:
        first = box.first_pid()
        with Writers(box.writer, patient=True, pause=0.02) as writers:
            writers.wait_for(20)
            lost = time.monotonic()
            server.wire.cut("drop")
            box.ready(word="fallback")
            taken = time.monotonic() - lost
            writers.wait_for(40)
            server.wire.heal()
            healed = time.monotonic()
            box.ready(90, word="primary")
            back = time.monotonic() - healed
            writers.wait_for(20)
        print(f"SQLite after {taken:.1f} s, handed back after {back:.1f} s, longest request "
              f"{writers.longest:.1f} s")  # fmt: skip
        stored = {str(row[0]) for row in server.execute("SELECT id::text FROM readings")}
        assert set(writers.acknowledged) <= stored
        assert box.first_pid() == first, "it went round inside"
        assert "status 75" in box.logs()
        box.exec("edgepaas", "audit")
        podman_stop(box)


def test_killed_in_an_outage_it_still_brings_its_rows_home(
    image: str, server: Hub, tmp_path: Path
) -> None:
    """The rows wait on the volume, over a kill of the whole container."""
    with on_postgres(image, server, tmp_path) as box:
        server.wire.cut("reset")
        box.ready(word="fallback")
        kept = {box.writer.write("press", float(value)) for value in range(10)}
        box.kill()
        box.restart()
        assert box.client.wait_ready()["state"] in ("fallback", "draining")
        server.wire.heal()
        box.ready(90, word="primary")
        assert {str(r[0]) for r in server.execute("SELECT id::text FROM readings")} == kept


def test_in_the_cloud_it_waits_for_its_postgres_and_never_takes_sqlite(
    image: str, server: Hub, tmp_path: Path
) -> None:
    """PostgreSQL only, as the cloud's manifest says: away it is not ready, and no row is kept."""
    with on_postgres(image, server, tmp_path, BOTH_DB="false", STOP_TIMEOUT="2") as box:
        box.writer.write("press", 1.0)
        server.wire.cut("reject")
        deadline = time.monotonic() + 30
        while box.client.state().get("status") == 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        server.wire.heal()
        box.ready(90, word="primary")
        assert server.execute("SELECT count(*) FROM readings") == [[1]]


# -- the box in a container --


def test_the_second_target_boots_the_very_units(containers: None, package: Path) -> None:
    """systemd as PID 1; the same chain, the same state, and nothing failed."""
    with Booted("units", images.image("systemd")) as box:
        box.ready(90)  # a machine's channel for alerts is in its file of settings: here is none
        state = box.client.state()
        assert state["mode"] == "standalone", state
        assert [reason.partition(":")[0] for reason in state["reasons"]] == ["alerts"]
        units = box.exec("systemctl", "--plain", "--no-legend", "list-units", "edgepaas*")
        active = {line.split()[0] for line in units.splitlines() if " active " in line}
        assert {"edgepaas.service", "edgepaas.socket", "edgepaas-alerts.path"} <= active
        assert not box.exec("systemctl", "--plain", "--no-legend", "--failed").strip()


class Booted(Container):
    """A container of the target 'systemd': unprivileged, but with a root of its own."""

    def start(self) -> None:
        """Run it, detached."""
        images.podman(
            "run", "--detach", "--name", self.name, *images.LIMITS, "--systemd=always",
            "--network", f"ns:{self.namespace.path}",
            "--volume", f"{self.volume}:/var/lib/edgepaas", self.image,
        )  # fmt: skip

    def logs(self) -> str:
        """Return the journal, where there is one."""
        return self.exec("journalctl", "--no-pager", "-b", check=False) or super().logs()


def podman_stop(box: Container) -> None:
    """Stop it as 'docker stop' does; it ends by itself, with 0."""
    images.podman("stop", "--time", "10", box.name)
    assert box.wait() == 0, "it had to be killed"


def cmdline(pid: int) -> bytes:
    """Return a process's command line; empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def in_container(pid: int) -> int:
    """Return a process's number inside its own PID namespace."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("NSpid:")[1].splitlines()[0].split()[-1])
