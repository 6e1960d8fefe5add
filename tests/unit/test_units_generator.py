# SPDX-License-Identifier: Apache-2.0
"""edgepaas-generator: HOST and PORT of the settings become the socket's address."""

import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
GENERATOR = REPOSITORY / "systemd" / "edgepaas-generator"

Generate = Callable[[bytes | None], str]


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Run the generator on a file of settings; returns the drop-in, "" when it writes none."""
    monkeypatch.syspath_prepend(str(REPOSITORY))

    def run(
        content: bytes | None, hosts: str = "127.0.0.1 localhost\n10.1.2.3 box.lan box\n"
    ) -> str:
        names: dict[str, Any] = runpy.run_path(str(GENERATOR), run_name="generator")[
            "main"
        ].__globals__
        names["TREE"] = str(REPOSITORY)
        names["ENV_FILE"] = tmp_path / "edgepaas.env"
        names["HOSTS"] = tmp_path / "hosts"
        names["HOSTS"].write_text(hosts)
        if content is not None:
            names["ENV_FILE"].write_bytes(content)
        monkeypatch.setattr("sys.argv", ["edgepaas-generator", str(tmp_path / "units")])
        names["main"]()
        written = tmp_path / "units/edgepaas.socket.d/50-address.conf"
        return written.read_text() if written.exists() else ""

    return run


@pytest.mark.parametrize(
    ("content", "address"),
    [
        (b"PORT=9000\n", "9000"),
        (b"HOST=192.168.7.1\n", "192.168.7.1:8080"),
        (b"HOST='localhost'\r\nPORT=80\r\n", "127.0.0.1:80"),
        (b"HOST=::\n", "8080"),
        (b"HOST=0.0.0.0\n", "0.0.0.0:8080"),
        (b"HOST=fd00::7\n", "[fd00::7]:8080"),
        (b"HOST=box.lan\n", "10.1.2.3:8080"),
        (b"HOST=nobody.knows\n", "8080"),
        (b"ENV=production\n", "8080"),
        (b"ENV=development\n", "127.0.0.1:8080"),
        (b"PORT=seventy\nENV=production\n", "8080"),
    ],
)
def test_the_address_is_what_the_file_says(
    generate: Generate, content: bytes, address: str
) -> None:
    assert generate(content).splitlines()[1:] == [
        "[Socket]",
        "ListenStream=",  # takes the unit's own address away
        f"ListenStream={address}",
    ]


@pytest.mark.parametrize("content", [None, b"", b"# PORT=9000\n", os.urandom(4096)])
def test_a_file_without_a_word_about_it_leaves_the_units_own_address(
    generate: Generate, content: bytes | None
) -> None:
    assert generate(content) == ""
