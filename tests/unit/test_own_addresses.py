# SPDX-License-Identifier: Apache-2.0
"""Addresses that a person can open from another machine, as the kernel has them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.cli import main
from edgepaas.cli.operator import status
from edgepaas.files.own_addresses import reached_at
from edgepaas.files.paths import Paths
from edgepaas.httpd import listen
from edgepaas.httpd.listen import Listening, bind, plain_address
from edgepaas.settings.own_url import network_urls, published_url

POSTINST = Path(__file__).resolve().parents[2] / "packaging/debian/edgepaas.postinst"

TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 169.254.3.4
        /32 host LOCAL
     |-- 192.168.7.5
        /32 host LOCAL
     |-- 192.168.7.255
        /32 link BROADCAST
Local:
     |-- 192.168.7.5
        /32 host LOCAL
"""
V6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000021122fffe334455 02 40 20 80     eth0
fd000000000000000000000000000007 02 40 00 80     eth0
fd00000000000000aaaabbbbccccdddd 02 40 00 01     eth0
fd000000000000000000000000000008 02 40 00 40     eth0
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Files as a kernel's, which the box's own addresses are read from."""
    files = {"ipv4": tmp_path / "trie", "ipv6": tmp_path / "v6"}
    files["ipv4"].write_text(TRIE)
    files["ipv6"].write_text(V6)
    monkeypatch.setattr(
        "edgepaas.files.own_addresses.reached_at", lambda host: reached_at(host, **files)
    )
    return files


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("::", ["192.168.7.5", "fd00::7"]),
        ("0.0.0.0", ["192.168.7.5"]),
        ("10.0.0.1", ["10.0.0.1"]),
    ],
)
def test_addresses_that_last_and_reach_beyond_the_link(
    kernel: dict[str, Path], host: str, found: list[str]
) -> None:
    assert reached_at(host, **kernel) == found
    for file in kernel.values():
        file.unlink()
    assert reached_at(host, **kernel) == (found if host == "10.0.0.1" else [])


@pytest.mark.usefixtures("kernel")
def test_what_status_and_the_installation_print(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bind("::", 0)
    port = found[0].getsockname()[1]
    paths.address.write_text(Listening(tuple(found), inherited=False).publication)
    assert published_url(paths) == f"http://127.0.0.1:{port}", "for programs of the box"
    urls = [f"http://192.168.7.5:{port}", f"http://[fd00::7]:{port}"]
    if found[0].family != socket.AF_INET6:
        urls.pop()  # this machine has no IPv6
    assert network_urls(paths) == urls
    assert main(["status", "--addresses"]) == 0
    assert capsys.readouterr().out.split() == urls
    for sock in found:
        sock.close()
    for alone in ("127.0.0.1 80", "::1 80"):
        paths.address.write_text(f"http://localhost:80\n{alone}\n")
        assert network_urls(paths) == []
    paths.address.write_text("unix:/run/box\n")
    assert network_urls(paths) == []
    paths.address.write_text("http://127.0.0.1:8080\n")  # of a release before
    assert len(network_urls(paths)) <= 2


@pytest.mark.parametrize(
    ("listens", "why"),
    [(":: 8080", "no network at the moment"), ("127.0.0.1 8080", "as HOST says")],
)
def test_a_box_without_a_network_does_not_blame_a_setting(
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    listens: str,
    why: str,
) -> None:
    monkeypatch.setattr("edgepaas.files.own_addresses.reached_at", lambda _host: [])
    monkeypatch.setattr(status, "_ask", lambda _url: (200, {"state": "standalone"}))
    paths.address.write_text(f"http://127.0.0.1:8080\n{listens}\n")
    assert main(["status"]) == 0
    printed = capsys.readouterr().out
    assert "http://127.0.0.1:8080" in printed
    assert why in printed


def test_the_installation_names_addresses_and_no_placeholder(tmp_path: Path) -> None:
    script = POSTINST.read_text().replace("#DEBHELPER#", "")
    assert "THIS-BOX" not in script
    fake = tmp_path / "edgepaas"
    own = str(Path(sys.executable).parent)
    without = ":".join(one for one in os.environ["PATH"].split(":") if one != own)
    for said in ("http://192.168.7.5:8080 http://[fd00::7]:8080", ""):
        fake.write_text(
            f"#!/bin/sh\nfor url in {said.replace('[', chr(92) + '[')}; do echo $url; done\n"
        )
        fake.chmod(0o755)
        done = subprocess.run(
            ["sh", "-s", "configure", ""],
            input=script,
            env={"PATH": f"{tmp_path}:{without}"},
            text=True,
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert f"its address:  {said or 'no network yet'}" in done.stdout


def test_both_families_are_served_and_a_client_has_one_name() -> None:
    found = bind("::", 0)
    try:
        port = found[0].getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=60):
            found[0].setblocking(True)
            accepted, address = found[0].accept()
            accepted.close()
        assert plain_address(address)[0] == "127.0.0.1"
    finally:
        for sock in found:
            sock.close()
    assert plain_address(("fd00::7", 9, 0, 0))[0] == "fd00::7"
    assert plain_address(("::ffff:10.0.0.7", 9, 0, 0))[0] == "10.0.0.7"
    assert plain_address(("127.0.0.1", 9)) == ("127.0.0.1", 9)
    assert plain_address("") == ""


def test_a_kernel_without_ipv6_is_served_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = listen._bind_one

    def bind_one(family: int, address: object, port: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, address, port)  # type: ignore[arg-type]

    monkeypatch.setattr(listen, "_bind_one", bind_one)
    (sock,) = bind("::", 0)
    assert sock.getsockname()[0] == "0.0.0.0"
    sock.close()
