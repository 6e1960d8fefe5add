# SPDX-License-Identifier: Apache-2.0
"""The machine's measures, the clock, the disk, the operator's services."""

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgepaas.health.checks import CheckFailed
from edgepaas.health.clock import EARLIEST, judge_clock
from edgepaas.health.disk import check_room, check_writable, writable_probe
from edgepaas.health.services import probe_service
from edgepaas.health.system import (
    Measure,
    SystemMeter,
    container_memory_percent,
    memory_percent,
    temperature,
)
from edgepaas.settings import Settings
from edgepaas.settings.services import ServiceAddress


def test_a_measure_breaks_at_its_threshold_and_never_when_unknown() -> None:
    """What a hardened unit hides is unknown, not broken."""
    assert Measure("cpu", 90.0, "percent", 90.0).broken
    assert not Measure("cpu", 89.9, "percent", 90.0).broken
    assert not Measure("cpu", None, "percent", 0.0).broken
    assert Measure("cpu", None, "percent", 0.0).as_dict()["ok"] is None


def test_the_machine_is_measured_and_the_report_kept(tmp_path: Path) -> None:
    """A real measurement has every part; a second question within the cache is the same one."""
    meter = SystemMeter(Settings.of(), tmp_path, cache_seconds=60)
    report = meter.report()
    assert meter.report() is report
    document = report.as_dict()
    assert set(document) == {"status", "cpu", "memory", "disk", "temperature", "clock"}
    assert 0 <= document["disk"]["value"] <= 100  # type: ignore[index]


def test_a_broken_threshold_makes_the_report_not_ok(tmp_path: Path) -> None:
    """The disk is never emptier than nothing."""
    meter = SystemMeter(Settings.of(DISK_THRESHOLD="1"), tmp_path)
    report = meter.report()
    assert report.ok == (not any(m.broken for m in report.measures))


@pytest.mark.parametrize(
    ("files", "percent"),
    [
        (
            {
                "memory.max": "1000\n",
                "memory.current": "995\n",
                "memory.stat": "anon 900\ninactive_file 20\n",
            },
            97.5,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "1000\n",
                "memory/memory.usage_in_bytes": "995\n",
                "memory/memory.stat": "cache 90\ntotal_inactive_file 20\n",
            },
            97.5,
        ),
        (
            {
                "memory.max": "max\n",
                "memory.current": "995\n",
                "memory.stat": "inactive_file 20\n",
            },
            None,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "995\n",
                "memory/memory.stat": "total_inactive_file 20\n",
            },
            None,
        ),
        ({"memory.max": "1000\n"}, None),
        ({}, None),
    ],
    ids=["version 2", "version 1", "2, none", "1, none", "torn", "no container"],
)
def test_memory_counts_against_the_container_s_own_limit(
    files: dict[str, str], percent: float | None, tmp_path: Path
) -> None:
    """The kernel ends a container at its limit, however much the machine has."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert container_memory_percent(tmp_path) == percent
    if percent is not None:
        found = memory_percent(tmp_path)
        assert found is not None
        assert found >= percent


def test_the_hottest_sound_sensor_counts(tmp_path: Path) -> None:
    """A zone that gives nonsense is left out; no zone is no temperature."""
    assert temperature(tmp_path) is None
    for number, text in enumerate(["41000", "55500", "nonsense", "-274000", "999000", ""]):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    assert temperature(tmp_path) == 55.5


@pytest.mark.parametrize(
    ("now", "synchronised", "kernel", "trusted"),
    [
        (0.0, True, 0, False),
        (EARLIEST - 1.0, True, 0, False),
        (1e12, True, 0, False),
        (-1e12, False, 0, False),
        (EARLIEST + 1.0, True, 5, True),
        (EARLIEST + 1.0, False, 0, True),
        (EARLIEST + 1.0, False, 5, False),
        (EARLIEST + 1.0, False, None, None),
    ],
)
def test_the_clock_is_trusted_when_its_year_is_sane_and_somebody_set_it(
    tmp_path: Path, now: float, synchronised: bool, kernel: int | None, trusted: bool | None
) -> None:
    """First the year, then timesyncd's mark, then the kernel; None where nobody can tell."""
    mark = tmp_path / "synchronized"
    if synchronised:
        mark.touch()
    finding = judge_clock(now=lambda: now, synchronised=mark, kernel_state=lambda: kernel)
    assert finding.trusted is trusted
    assert finding.message


def test_the_real_clock_can_be_judged() -> None:
    """Whatever the kernel allows, there is an answer."""
    assert judge_clock().trusted in (True, False, None)


def test_a_writable_folder_with_room_passes_and_is_left_clean(tmp_path: Path) -> None:
    """The probe's file is gone afterwards."""
    assert "is writable" in check_writable(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_writable(tmp_path: Path) -> None:
    """Neither writing nor looking at the room raises anything unexpected."""
    for check in (check_writable, check_room):
        with pytest.raises(CheckFailed) as caught:
            check(tmp_path / "absent", 1)
        assert not caught.value.ready


def test_too_little_room_is_full_and_still_ready(tmp_path: Path) -> None:
    """Reading works on a full disk, so the box serves, in the state full."""
    with pytest.raises(CheckFailed, match="DISK_MIN_FREE") as caught:
        check_writable(tmp_path, 1 << 60)
    assert (caught.value.consequence, caught.value.ready) == ("full", True)


@pytest.mark.parametrize(
    ("left", "files", "full"), [(0, 1000, True), (63, 1000, True), (0, 0, False)]
)
def test_a_disk_without_room_for_another_file_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, files: int, full: bool
) -> None:
    """Bytes were free, so it was 'ok'; a file system that does not count them has no such limit."""
    room = {"f_bavail": 1000, "f_bfree": 1000, "f_blocks": 2000, "f_frsize": 4096}
    found = SimpleNamespace(f_favail=left, f_files=files, **room)
    monkeypatch.setattr("edgepaas.health.disk.os.statvfs", lambda _: found)
    if not full:
        assert "is writable" in check_room(tmp_path, 1)
        return
    with pytest.raises(CheckFailed, match="inodes") as caught:
        check_room(tmp_path, 1)
    assert (caught.value.consequence, caught.value.ready) == ("full", True)


def test_a_disk_that_takes_no_byte_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC from the write itself is told apart from a read-only mount."""

    def refuse(number: int) -> Any:
        def write(*_: Any) -> int:
            raise OSError(number, os.strerror(number))

        return write

    monkeypatch.setattr(os, "write", refuse(errno.ENOSPC))
    with pytest.raises(CheckFailed) as full:
        check_writable(tmp_path, 1)
    monkeypatch.setattr(os, "write", refuse(errno.EROFS))
    with pytest.raises(CheckFailed) as read_only:
        check_writable(tmp_path, 1)
    assert (full.value.ready, read_only.value.ready) == (True, False)


def test_a_probe_writes_rarely_and_looks_at_the_room_each_time(tmp_path: Path) -> None:
    """A flash card is not worn out by a load balancer."""
    now = [0.0]
    written: list[float] = []
    probe = writable_probe(tmp_path, 1, write_every=60, clock=lambda: now[0])
    before = tmp_path.stat().st_mtime_ns
    for _ in range(10):
        probe()
        now[0] += 10
        if tmp_path.stat().st_mtime_ns != before:
            before = tmp_path.stat().st_mtime_ns
            written.append(now[0])
    assert len(written) == 2


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """A server that answers every connection with *answer*, on a port of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if answer:
                    connection.recv(4096)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


OK = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
TEAPOT = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("scheme", "answer", "says"),
    [
        ("tcp", b"", "accepts connections"),
        ("http", OK, "status 204"),
        ("http", TEAPOT, "status 404"),
        ("redis", b"+PONG\r\n", "answers"),
        ("redis", b"-NOPERM this user has no permissions\r\n", "answers"),
    ],
)
def test_a_service_that_answers_is_there(scheme: str, answer: bytes, says: str) -> None:
    """A 404, and a Redis that lets this user do other things, are answers."""
    with server(answer) as port:
        assert says in probe_service(ServiceAddress("x", scheme, "127.0.0.1", port, "/"), 5)


@pytest.mark.parametrize(
    ("given", "wanted", "says"),
    [
        ("geheim", "geheim", "answers"),
        ("", "", "answers"),
        ("no need", "", "answers"),
        ("falsch", "geheim", "refused"),
        ("", "geheim", "wants a password"),
    ],
)
def test_the_password_of_a_redis_is_used(given: str, wanted: str, says: str) -> None:
    """It was read, kept as a secret, and never sent: any answer counted as healthy."""
    with redis_of(wanted) as port:
        address = ServiceAddress("redis", "redis", "127.0.0.1", port, password=given)
        try:
            said = probe_service(address, 5)
        except CheckFailed as failure:
            said = str(failure)
        assert says in said
        assert given not in said or not given


@contextmanager
def redis_of(password: str) -> Iterator[int]:
    """Answer one connection as a Redis with *password* does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        known = not password
        with connection, connection.makefile("rb") as stream:
            while count := stream.readline():
                words = [stream.read(int(stream.readline()[1:]) + 2) for _ in range(int(count[1:]))]
                words = [word.strip() for word in words]
                if words[0] == b"AUTH" and not password:
                    connection.sendall(b"-ERR AUTH called without any password configured\r\n")
                elif words[0] == b"AUTH":
                    known = words[-1] == password.encode()
                    connection.sendall(b"+OK\r\n" if known else b"-WRONGPASS invalid\r\n")
                else:
                    connection.sendall(b"+PONG\r\n" if known else b"-NOAUTH wanted\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()
        thread.join(5)


@pytest.mark.parametrize(
    ("scheme", "answer", "says"),
    [
        ("http", BROKEN, "status 502"),
        ("http", b"220 smtp ready\r\n", "does not speak HTTP"),
        ("http", b"\xff" * 70000 + b"\r\n", "does not speak HTTP"),
        ("redis", b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Redis"),
        ("redis", b"-LOADING Redis is loading\r\n", "loading"),
        ("redis", b"-NOAUTH Authentication required.\r\n", "REDIS__PASSWORD"),
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS failed"),
    ],
)
def test_a_service_that_answers_wrongly_is_not_there(scheme: str, answer: bytes, says: str) -> None:
    """The wrong server on the port is named as such."""
    with server(answer) as port, pytest.raises(CheckFailed, match=says):
        probe_service(ServiceAddress("x", scheme, "127.0.0.1", port, "/"), 5)


def test_a_refused_and_an_unresolvable_service_are_told_apart() -> None:
    """What to do differs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CheckFailed, match="refused"):
        probe_service(ServiceAddress("x", "tcp", "127.0.0.1", port), 5)
    with pytest.raises(CheckFailed, match="cannot be resolved"):
        probe_service(ServiceAddress("x", "tcp", "no-such-host.invalid", 1), 5)


def test_a_silent_service_is_given_up_after_its_timeout() -> None:
    """A server that accepts and says nothing is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = ServiceAddress("x", "redis", "127.0.0.1", listener.getsockname()[1])
        with pytest.raises(CheckFailed, match=r"no answer within 0\.1 s"):
            probe_service(address, 0.1)


def test_a_scheme_that_nobody_knows_is_a_failed_check() -> None:
    """Settings refuse it first; a second lock does not hurt."""
    odd: Any = SimpleNamespace(scheme="gopher", host="::1", port=70, path="", problem="")
    with pytest.raises(CheckFailed, match=r"gopher://\[::1\]:70"):
        probe_service(odd, 1)
