# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in the environment and its file: the chain starts, or names the setting.

Each case runs the real stages env, dbdecide, schema and verify one after the other.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgepaas.cli import main
from edgepaas.errors import EXIT_CONFIGURATION
from edgepaas.files.contract import parse_contract
from edgepaas.files.paths import Paths

STAGES = ("env", "dbdecide", "schema", "verify")


@dataclass(frozen=True)
class Case:
    """One hostile environment; *refused* names what the chain must name when it cannot start."""

    name: str
    file: bytes | None = b""
    environ: dict[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    expect: dict[str, str] = field(default_factory=dict)


def text(content: str) -> bytes:
    return content.encode()


CASES = [
    # the file itself
    Case("no file at all", None),
    Case("empty file"),
    Case("only blank lines and comments", b"\n\n  \n# a comment\n;another\n"),
    Case("random bytes", bytes(range(256)) * 16),
    Case("an ELF header", b"\x7fELF\x02\x01\x01" + b"\x00" * 400),
    Case("only NULs", b"\x00" * 4096),
    Case("NUL within a value", b"LOG_LEVEL=IN\x00FO\n"),
    Case("latin-1 umlauts", "NODE_NAME=kühlhaus\n".encode("latin-1")),
    Case("UTF-16 with its mark", "PORT=8090\n".encode("utf-16")),
    Case("UTF-8 with a byte-order mark", b"\xef\xbb\xbfPORT=8091\n", expect={"PORT": "8091"}),
    Case("CRLF lines", b"PORT=8092\r\nUSE_SQLITE=true\r\n", expect={"PORT": "8092"}),
    Case("old Macintosh lines", b"PORT=8093\rUSE_SQLITE=true\r"),
    Case("no newline at the end", b"PORT=8094", expect={"PORT": "8094"}),
    Case("one line of two megabytes", b"NODE_NAME=" + b"x" * 2_000_000 + b"\n"),
    Case("a hundred thousand lines", b"FOO=bar\n" * 100_000),
    Case("a line without a name", b"=value\n=\n==\n"),
    Case("names alone", b"PORT\nUSE_SQLITE\n"),
    Case("a shell script", b"#!/bin/sh\nset -e\nif true; then\n  export PORT=8095\nfi\n"),
    Case("YAML", b"port: 8080\ndatabase:\n  host: db\n"),
    Case("JSON", b'{"PORT": 8080, "USE_SQLITE": true}\n'),
    Case("INI sections", b"[service]\nPORT = 8096\n", expect={"PORT": "8096"}),
    Case("exported names", b"export PORT=8097\n", expect={"PORT": "8097"}),
    Case("blanks round the sign", b"  PORT  =  8098  \n", expect={"PORT": "8098"}),
    Case("lower-case names", b"port=8099\n"),
    Case("the same name twice", b"PORT=8100\nPORT=8101\n", expect={"PORT": "8101"}),
    # quotes
    Case("double quotes", b'PORT="8102"\n', expect={"PORT": "8102"}),
    Case("single quotes", b"PORT='8103'\n", expect={"PORT": "8103"}),
    Case("a quote that never ends", b'NODE_NAME="box\nPORT=8104\n'),
    Case("quotes of two kinds", b"NODE_NAME='box\"\n"),
    Case("shell substitution is text", b"NODE_NAME=$(reboot)`id`${HOME}\n"),
    Case("back-slashes", b"NODE_NAME=a\\b\\\\c\\\n"),
    # booleans and numbers
    Case("upper-case boolean", b"USE_SQLITE=TRUE\n", expect={"USE_SQLITE": "true"}),
    Case("yes", b"USE_SQLITE=yes\n", expect={"USE_SQLITE": "true"}),
    Case("on, quoted and padded", b'USE_SQLITE=" On "\n', expect={"USE_SQLITE": "true"}),
    Case("one", b"USE_SQLITE=1\n", expect={"USE_SQLITE": "true"}),
    Case("a malformed boolean", b"USE_SQLITE=maybe\n", expect={"USE_SQLITE": "false"}),
    Case("a boolean that is two", b"RUN_MIGRATIONS=2\n", expect={"RUN_MIGRATIONS": "true"}),
    Case("an empty boolean", b"USE_SQLITE=\n", expect={"USE_SQLITE": "false"}),
    Case("a port that is a word", b"PORT=http\n", expect={"PORT": "8080"}),
    Case("a negative port", b"PORT=-1\n", expect={"PORT": "8080"}),
    Case("a port of 65536", b"PORT=65536\n", expect={"PORT": "8080"}),
    Case("a port with decimals", b"PORT=80.5\n", expect={"PORT": "8080"}),
    Case("a port in other digits", text("PORT=٨٠٨٠\n")),
    Case("a number of 5,000 digits", b"THREADS=" + b"9" * 5000 + b"\n", expect={"THREADS": "4"}),
    Case("no threads", b"THREADS=0\n", expect={"THREADS": "4"}),
    Case("not a number", b"RETRY_INTERVAL=nan\n", expect={"RETRY_INTERVAL": "3"}),
    Case("infinite seconds", b"DB_CONNECT_TIMEOUT=inf\n", expect={"DB_CONNECT_TIMEOUT": "3"}),
    Case("a size in no unit", b"REQUEST_MAX_BYTES=lots\n", expect={"REQUEST_MAX_BYTES": "8388608"}),
    Case("an unknown log level", b"LOG_LEVEL=LOUD\n", expect={"LOG_LEVEL": "INFO"}),
    Case("a lower-case log level", b"LOG_LEVEL=debug\n", expect={"LOG_LEVEL": "DEBUG"}),
    Case("an unknown time zone", b"TZ=Mars/Olympus\n"),
    Case("an unknown environment", b"ENV=prod-eu-1\n"),
    Case("a host with a blank", b"HOST=not a host\n"),
    Case("a log file in no folder", b"LOG_FILE=/proc/nowhere/edgepaas.log\n"),
    # databases
    Case("an empty URL", b"DATABASE_URL=\n"),
    Case("a URL of blanks", b'DATABASE_URL="   "\n'),
    Case("an unknown scheme", b"DATABASE_URL=mysql://u:pw-hidden@db/x\nBOTH_DB=true\n"),
    Case("not a URL", b"DATABASE_URL=localhost:5432\n"),
    Case("a URL with a bad port", b"DATABASE_URL=postgresql://u:pw-hidden@127.0.0.1:port/x\n"),
    Case("an unreadable URL and no fallback", b"DATABASE_URL=::::\nBOTH_DB=false\n",
         refused=("DATABASE_URL",)),
    Case("nobody listens", b"DATABASE_URL=postgres://u:pw-hidden@127.0.0.1:9/x\nMAX_RETRIES=1\n"
         b"RETRY_INTERVAL=0.1\n", expect={"MAX_RETRIES": "1"}),
    Case("production without a database it insists on", b"ENV=production\nBOTH_DB=false\n",
         refused=("BOTH_DB", "DATABASE_URL")),
    Case("PostgreSQL asked for without saying which", b"USE_SQLITE=false\nBOTH_DB=true\n"),
    Case("SQLite forced beside a URL",
         b"USE_SQLITE=true\nBOTH_DB=true\nDATABASE_URL=postgresql://u:pw-hidden@127.0.0.1:9/x\n"),
    Case("an SQLite URL", b"DATABASE_URL=sqlite:///{home}/other.db\n"),
    Case("two ways to say one database", b"DATABASE_URL=sqlite:///{home}/a.db\nDATABASE__HOST=db\n"),
    # other contradictions, sources and strangers
    Case("origins without CORS", b"CORS_ENABLED=false\nCORS_ORIGINS=https://a.example\n"),
    Case("an unknown setting", b"DATABSE_URL=postgresql://u:pw-hidden@h/x\n"),
    Case("a secret's file that is not there", b"DATABASE__PASSWORD_FILE=/nonexistent/secret\n"),
    Case("a value and its file at once",
         b"DATABASE__PASSWORD=pw-hidden\nDATABASE__PASSWORD_FILE=/etc/hostname\n"),
    Case("a service of no scheme", b"OPTIONAL_SERVICES=gopher://x,,tcp://,:::\n"),
    Case("a service that is away in development", b"REQUIRED_SERVICES=queue=tcp://127.0.0.1:9\n"),
    Case("Vault asked for without an address", b"VAULT__ENABLED=true\n"),
    Case("Vault away in development",
         b"VAULT__ENABLED=true\nVAULT__URL=http://127.0.0.1:9\nVAULT__TOKEN=pw-hidden\n"),
    Case("Vault away in production",
         b"ENV=production\nVAULT__ENABLED=true\nVAULT__URL=http://127.0.0.1:9\n"
         b"VAULT__TOKEN=pw-hidden\n", refused=("VAULT__URL",)),
    Case("an application nobody installed", b"EDGEPAAS_APP=nonesuch\n", refused=("EDGEPAAS_APP",)),
    Case("the process environment wins", b"PORT=8110\n", {"PORT": "8111"}, expect={"PORT": "8111"}),
    Case("hostile process environment", b"", {"PORT": "\x1b[31m8080", "THREADS": "¼", "ENV": ""}),
    Case("undecodable process environment", b"", {"NODE_NAME": "\udcff\udcfe"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_chain_starts_or_names_the_setting(
    case: Case, paths: Paths, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if case.file is not None:
        paths.env_file.write_bytes(case.file.replace(b"{home}", os.fsencode(paths.state)))
    for name, value in case.environ.items():
        monkeypatch.setenv(name, value)
    statuses = run_chain()
    output = "".join(capfd.readouterr())
    assert "Traceback" not in output
    assert "pw-hidden" not in output, "a secret was printed"
    if case.refused:
        assert statuses[-1] != 0, output
        for name in case.refused:
            assert name in output
    else:
        assert statuses == [0] * len(STAGES), output
        values = parse_contract(paths.env_contract.read_text())
        assert {name: values[name] for name in case.expect} == case.expect


def run_chain() -> list[int]:
    """Run the stages as systemd would: the first that fails ends the chain."""
    statuses: list[int] = []
    for stage in STAGES:
        statuses.append(main([stage]))
        if statuses[-1] != 0:
            break
    return statuses


def test_at_least_sixty_environments_are_tried() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_a_file_that_is_a_folder_is_said_and_done_without(
    paths: Paths, capfd: pytest.CaptureFixture[str]
) -> None:
    paths.env_file.mkdir(parents=True)
    assert run_chain() == [0] * len(STAGES)
    assert str(paths.env_file) in "".join(capfd.readouterr())


def test_an_unreadable_value_leaves_no_stale_contract(paths: Paths) -> None:
    """A stage deletes its contract first: what fails now must not run on yesterday's values."""
    assert main(["env"]) == 0
    assert paths.env_contract.is_file()
    Path(paths.env_file).write_text("ENV=production\nBOTH_DB=false\n")
    assert main(["env"]) == EXIT_CONFIGURATION
    assert not paths.env_contract.exists()
