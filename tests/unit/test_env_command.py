# SPDX-License-Identifier: Apache-2.0
"""``edgepaas env`` and ``edgepaas settings``: hostile environments, the contract, what is shown."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edgepaas.cli.operator import settings as settings_command
from edgepaas.cli.stages import env as env_command
from edgepaas.errors import ConfigurationError
from edgepaas.files.contract import read_contract
from edgepaas.files.paths import Paths, find_paths
from edgepaas.service.instance_locks import claim_serving
from edgepaas.settings import SETTINGS, Settings
from tests.support.search import tries


def call(module: object, *arguments: str) -> int:
    """Run a command's module as the command line does."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)  # type: ignore[attr-defined]
    return int(module.run(parser.parse_args(arguments)))  # type: ignore[attr-defined]


#: What somebody wrote → settings that must come of it, or the names that the refusal must hold.
HOSTILE: dict[str, tuple[bytes, dict[str, str] | tuple[str, ...]]] = {
    "empty": (b"", {"PORT": "8080", "BOTH_DB": "false"}),
    "only a newline": (b"\n", {"PORT": "8080"}),
    "only a NUL": (b"\0", {"PORT": "8080"}),
    "only a byte-order mark": (b"\xef\xbb\xbf", {"PORT": "8080"}),
    "half a UTF-16 mark": (b"\xff", {"PORT": "8080"}),
    "odd UTF-16": (b"\xff\xfeP\0O", {"PORT": "8080"}),
    "all bytes": (bytes(range(256)) * 4, {"PORT": "8080"}),
    "an ELF head": (b"\x7fELF\x02\x01\x01" + b"\0" * 200, {"PORT": "8080"}),
    "a gzip head": (b"\x1f\x8b\x08\0\0\0\0\0\0\xff" * 20, {"PORT": "8080"}),
    "ten megabytes in a line": (b"PORT=" + b"9" * 10_000_000, {"PORT": "8080"}),
    "a hundred thousand lines": (b"PORT=9000\n" * 100_000, {"PORT": "9000"}),
    "JSON": (b'{"PORT": 9000}\n', {"PORT": "8080"}),
    "YAML": (b"PORT: 9000\nTHREADS: 8\n", {"PORT": "8080"}),
    "INI": (b"[edgepaas]\nPORT = 9000\n", {"PORT": "9000"}),
    "a shell script": (b"#!/bin/sh\nexport PORT=9000\nif true; then\nfi\n", {"PORT": "9000"}),
    "HTML": (b"<!DOCTYPE html><p class=x>PORT=9000</p>", {"PORT": "8080"}),
    "DOS lines": (b"PORT=9000\r\nTHREADS=8\r\n", {"PORT": "9000", "THREADS": "8"}),
    "old Mac lines": (b"PORT=9000\rTHREADS=8\r", {"PORT": "9000", "THREADS": "8"}),
    "UTF-16 with a mark": ("PORT=9000\n".encode("utf-16"), {"PORT": "9000"}),
    "UTF-16 without one": ("PORT=9000\n".encode("utf-16-le"), {"PORT": "9000"}),
    "UTF-32": ("PORT=9000\n".encode("utf-32"), {"PORT": "8080"}),
    "Latin-1": (b"NODE_NAME=M\xfcnchen\nPORT=9000\n", {"PORT": "9000"}),
    "blanks everywhere": (b"  PORT  =  9000  \n", {"PORT": "9000"}),
    "no-break spaces": ("PORT\u00a0=\u00a09000\u00a0\n".encode(), {"PORT": "9000"}),
    "a zero-width space": ("\u200bPORT=9000\u200b\n".encode(), {"PORT": "9000"}),
    "lower case": (b"port=9000\nboth_db=TRUE\n", {"PORT": "9000", "BOTH_DB": "true"}),
    "typographic quotes": ("PORT=“9000”\n".encode(), {"PORT": "9000"}),
    "an open quote": (b'PORT="9000\nTHREADS=8\n', {"PORT": "9000", "THREADS": "8"}),
    "nested quotes": (b"PORT=\"'9000'\"\n", {"PORT": "8080"}),
    "text behind a quote": (b'PORT="9000"1\n', {"PORT": "8080"}),
    "a comment behind": (b"PORT=9000 # was 8080\n", {"PORT": "9000"}),
    "a variable": (b"PORT=${MY_PORT:-9000}\n", {"PORT": "8080"}),
    "a command": (b"PORT=$(reboot)\nNODE_NAME=`reboot`\n", {"PORT": "8080"}),
    "an unset port": (b"PORT=\n", {"PORT": "8080"}),
    "a quoted nothing": (b"PORT=\"\"\nENV=''\n", {"PORT": "8080", "ENV": "development"}),
    "a negative port": (b"PORT=-1\n", {"PORT": "8080"}),
    "port zero": (b"PORT=0\n", {"PORT": "8080"}),
    "a port too high": (b"PORT=65536\n", {"PORT": "8080"}),
    "a port of letters": (b"PORT=http\n", {"PORT": "8080"}),
    "a port with a fraction": (b"PORT=80.5\n", {"PORT": "8080"}),
    "a port in Arabic digits": ("PORT=٨٠٨٠\n".encode(), {"PORT": "8080"}),
    "a port of a thousand digits": (b"PORT=" + b"9" * 1000 + b"\n", {"PORT": "8080"}),
    "a host that is none": (b"HOST=not a host\n", {"HOST": "127.0.0.1"}),
    "a host with a port": (b"HOST=0.0.0.0:9000\n", {"HOST": "127.0.0.1"}),
    "a boolean that is none": (b"BOTH_DB=perhaps\n", {"BOTH_DB": "false"}),
    "a boolean of blanks": (b"BOTH_DB='   '\n", {"BOTH_DB": "false"}),
    "numbers without end": (b"THREADS=inf\nSTOP_TIMEOUT=nan\n", {"STOP_TIMEOUT": "20"}),
    "an exponent": (b"STOP_TIMEOUT=1e3\n", {"STOP_TIMEOUT": "20"}),
    "a size in furlongs": (b"REQUEST_MAX_BYTES=8 furlongs\n", {"REQUEST_MAX_BYTES": "8388608"}),
    "a mistyped environment": (b"ENV=prodution\n", {"ENV": "production"}),
    "a zone on Mars": (b"TZ=Mars/Olympus\n", {"TZ": "UTC"}),
    "a zone that climbs": (b"TZ=../../../etc/passwd\n", {"TZ": "UTC"}),
    "a level that is none": (b"LOG_LEVEL=loud\n", {"LOG_LEVEL": "INFO"}),
    "a log file that cannot be": (b"LOG_FILE=/dev/null/x.log\n", {"LOG_FILE": "/dev/null/x.log"}),
    "a log file that is a folder": (b"LOG_FILE=/\n", {"LOG_FILE": "/"}),
    "another database": (b"DATABASE_URL=mysql://u:p@h/d\n", {"DATABASE_URL": ""}),
    "a half-written address": (b"DATABASE_URL=postgresql://\n", {"BOTH_DB": "true"}),
    "a word as address": (b"DATABASE_URL=yes please\n", {"DATABASE_URL": ""}),
    "two hosts": (
        b"DATABASE_URL=postgres://a,b/d\n",
        {"DATABASE_URL": "postgresql://edgepaas@a:5432,b:5432/d"},
    ),
    "a raw slash in a password": (b"DATABASE_URL=postgres://u:p/w@h/d\n", {"DATABASE_URL": ""}),
    "a NUL in a password": (b"DATABASE_URL=postgres://u:%00@h/d\n", {"DATABASE_URL": ""}),
    "an open bracket": (b"DATABASE_URL=postgres://u@[::1/d\n", {"DATABASE_URL": ""}),
    "a database in memory": (b"DATABASE_URL=sqlite:///:memory:\n", {"DATABASE_URL": ""}),
    "files that are not there": (b"PORT_FILE=/nowhere\nENV_FILE=/\n", {"PORT": "8080"}),
    "a file that never ends": (b"DATABASE__PASSWORD_FILE=/dev/zero\n", {"DATABASE__PASSWORD": ""}),
    "services that are none": (
        b"REQUIRED_SERVICES=a,,=,://,tcp://,x=\n",
        {"REQUIRED_SERVICES": "a,=,://,tcp://,x="},  # kept, so that the gate fails with them
    ),
    "itself as the file": (b"EDGEPAAS_ENV_FILE=/x\nEDGEPAAS_HOME=/x\n", {"PORT": "8080"}),
    "an own name of NULs": (b"APP_X=\xef\xbf\xbf\n", {"PORT": "8080"}),
    "five thousand own names": (
        b"".join(b"APP_%d=%s\n" % (n, b"x" * 100) for n in range(5000)),
        {"PORT": "8080"},
    ),
    "five thousand services": (
        b"".join(b"S%d__HOST=h\nS%d__PORT=1\n" % (n, n) for n in range(5000)),
        {"PORT": "8080"},
    ),
    "a tab in a password": (
        b"DATABASE__HOST=h\nDATABASE__PASSWORD='a\tb'\n",
        {"DATABASE_URL": ""},
    ),
    "a password without end": (
        b"DATABASE__HOST=h\nDATABASE__PASSWORD=" + b"%" * 30_000 + b"\n",
        {"DATABASE_URL": ""},
    ),
    "an interface that is none": (b"DATABASE__HOST=fe80::1%a b\n", {"DATABASE_URL": ""}),
    "one endless service": (
        b"REQUIRED_SERVICES=http://h/" + b"x" * 30_000 + b"\n",
        {"REQUIRED_SERVICES": ""},
    ),
    "both and neither": (
        b"ENV=production\nBOTH_DB=false\n",
        ("ENV=production", "BOTH_DB", "DATABASE_URL"),
    ),
    "alone, and a bad address": (
        b"BOTH_DB=false\nDATABASE_URL=oracle://u:geheim@h\n",
        ("BOTH_DB", "DATABASE_URL"),
    ),
    "a vault without an address": (
        b"ENV=production\nVAULT__ENABLED=true\n",
        ("VAULT__URL", "VAULT__ENABLED"),
    ),
    "a vault that is none": (
        b"ENV=production\nVAULT__ENABLED=true\nVAULT__TOKEN=geheim\nVAULT__URL=http://127.0.0.1:1\n",
        ("VAULT__URL", "ENV=production"),
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_of_settings_starts_the_chain_or_is_named(
    case: str, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """No exception but a ConfigurationError; where it goes on, a contract that can be read."""
    data, expected = HOSTILE[case]
    paths.env_file.write_bytes(data)
    if isinstance(expected, tuple):
        with pytest.raises(ConfigurationError) as caught:
            call(env_command)
        assert all(name in str(caught.value) for name in expected)
        assert "geheim" not in str(caught.value)
        assert not paths.env_contract.exists()
        return
    assert call(env_command) == 0
    settings = Settings.read(paths.env_contract)
    assert {name: settings.text(name) for name in expected} == expected
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_list_of_hostile_files_is_long_enough() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/nowhere"),
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["folder", "pipe", "loop", "dangling", "device"],
)
def test_what_is_no_file_does_not_stop_the_chain(make: object, paths: Paths) -> None:
    make(paths.env_file)  # type: ignore[operator]
    assert call(env_command) == 0


@hypothesis_settings(
    max_examples=tries(25),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_start_the_chain_or_are_named(paths: Paths, data: bytes) -> None:
    paths.env_file.write_bytes(data)
    try:
        assert call(env_command) == 0
    except ConfigurationError:
        assert not paths.env_contract.exists()
        return
    Settings.read(paths.env_contract)


def test_a_stage_that_fails_leaves_no_contract(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(env_command) == 0
    monkeypatch.setenv("ENV", "production")
    monkeypatch.setenv("BOTH_DB", "false")
    with pytest.raises(ConfigurationError):
        call(env_command)
    assert not paths.env_contract.exists()


def test_the_stage_says_one_line_and_logs_the_rest(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "x")
    paths.env_file.write_text("THREADS=8\n", encoding="utf-8")
    assert call(env_command) == 0
    out, err = capsys.readouterr()
    assert out == f"environment  development: 1 from file; 1 warning; wrote {paths.env_contract}\n"
    assert "PORT: 'x' is not a whole number" in err
    assert "PORT" in paths.log_file.read_text(encoding="utf-8")


def test_a_shell_and_systemd_read_the_contract_to_the_same_values(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sh is asked; systemd's rules for the double-quoted form are the same ones."""
    hostile = "a \"b\" $HOME `id` \\ 'c' # d"
    monkeypatch.setenv("APP_TEXT", hostile)
    assert call(env_command) == 0
    script = f'. "{paths.env_contract}"; printf "%s|%s" "$APP_TEXT" "$PORT"'
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output == f"{hostile}|8080"


def test_explaining_writes_nothing_and_shows_no_secret(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u:geheim@h/d")
    monkeypatch.setenv("THREADS", '"08"')
    assert call(env_command, "--explain") == 0
    out = capsys.readouterr().out
    assert "postgresql://u:****@h:5432/d" in out
    (threads,) = [line for line in out.splitlines() if line.startswith("THREADS ")]
    assert threads.split(maxsplit=3) == [
        "THREADS",
        "8",
        "environment",
        "quotes taken off; read as 8",
    ]
    assert all(f"\n{name} " in f"\n{out}" for name in SETTINGS)
    assert call(env_command, "--json") == 0
    text = capsys.readouterr().out
    assert json.loads(text)["settings"]["THREADS"] == {
        "value": "8",
        "source": "environment",
        "raw": "08",
        "changed": "quotes taken off; read as 8",
        "given": True,
    }
    assert "geheim" not in out + text
    assert not paths.env_contract.exists()


def test_explaining_what_cannot_go_on_ends_with_78(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENV", "production")
    monkeypatch.setenv("BOTH_DB", "false")
    assert call(env_command, "--explain") == 78
    assert "error: BOTH_DB and DATABASE_URL" in capsys.readouterr().out


def test_settings_lists_what_is_in_force_and_where_it_came_from(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.env_file.write_text("PORT=9000\nREDIS__PASSWORD=geheim\n", encoding="utf-8")
    monkeypatch.setenv("THREADS", "8")
    assert call(env_command) == 0
    monkeypatch.setenv("THREADS", "9")  # not in force before the stage has run again
    capsys.readouterr()
    assert call(settings_command, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in document["settings"]}
    assert document["in_force"] is True
    assert (rows["PORT"]["value"], rows["PORT"]["source"]) == (
        "9000",
        f"{paths.env_file} line 1",
    )
    assert (rows["THREADS"]["value"], rows["THREADS"]["source"]) == ("8", "environment")
    assert (rows["HOST"]["value"], rows["HOST"]["source"]) == ("127.0.0.1", "derived")
    assert rows["MAX_RETRIES"]["source"] == "default"
    assert rows["REDIS__PASSWORD"]["value"] == "****"
    assert rows["LOG_FILE"]["value"] == str(paths.log_file)
    assert rows["DATABASE_URL_SQLITE"]["value"] == f"sqlite:///{paths.sqlite}"
    assert call(settings_command) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  REQUEST_MAX_BYTES +8MiB +default", out, re.M)
    assert all(f"  {name} " in out for name in SETTINGS)
    assert "geheim" not in out


def test_settings_before_the_first_start_says_so(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(settings_command) == 0
    assert "not in force yet" in capsys.readouterr().out


def test_the_shipped_file_is_for_production(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(settings_command, "--env-file-template") == 0
    assert "\nENV=production\n" in capsys.readouterr().out
    assert call(settings_command, "--markdown") == 0
    assert "| `PORT` | `8080` |" in capsys.readouterr().out


def test_the_command_ends_with_78_and_without_a_traceback(tmp_path: Path) -> None:
    """The whole way through the command line, in a process of its own."""
    environ = {**os.environ, "ENV": "production", "BOTH_DB": "off"}
    command = [sys.executable, "-m", "edgepaas", "env"]
    result = subprocess.run(
        command,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 78
    assert "BOTH_DB" in result.stderr
    assert "Traceback" not in result.stderr
    good = subprocess.run(
        command,
        env={**os.environ, "NODE_NAME": "M\udcfcnchen"},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert good.returncode == 0, good.stderr
    assert "NODE_NAME" in good.stderr
    assert read_contract(find_paths().env_contract, written_by="env")["PORT"] == "8080"


def test_the_lean_part_imports_nothing_heavy() -> None:
    """Every stage reads the settings at its start."""
    script = (
        "import sys, edgepaas.settings;"
        "heavy = {'urllib.request', 'http.client', 'ssl', 'zoneinfo', 'difflib',"
        " 'logging', 'socket', 'json'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.strip() == "[]"


def test_env_by_hand_beside_a_running_service_says_that_the_old_values_go_on(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written all the same: the next start takes it."""
    assert call(env_command) == 0
    assert "goes on" not in capsys.readouterr().err
    lock = claim_serving(paths)
    assert lock is not None
    try:
        assert call(env_command) == 0
        warned = capsys.readouterr().err
        assert f"the running service (process {os.getpid()}) goes on with the values" in warned
        assert paths.env_contract.exists()
    finally:
        os.close(lock)
