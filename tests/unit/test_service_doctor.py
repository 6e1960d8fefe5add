"""The preflight finds what is wrong and says what to do; 'status' needs nobody's leave."""

import json
import socket
import sqlite3
from pathlib import Path

import pytest

from edgepaas.cli import main
from edgepaas.errors import UsageError
from edgepaas.files.paths import Paths
from edgepaas.service.doctor import Examination, Finding, examine
from edgepaas.service.doctor.preflight import preflight
from tests.support.service_process import free_port, write_contracts


def found(paths: Paths) -> dict[str, Finding]:
    """Return the findings by name."""
    return {finding.name: finding for finding in preflight(paths)}


def test_a_fresh_box_has_nothing_that_fails(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the issue names is looked at."""
    monkeypatch.setenv("PORT", str(free_port()))
    findings = found(paths)
    looked_at = {"settings", "clock", "memory", "DNS", "PostgreSQL", "TLS", "SQLite", "schema"}
    assert looked_at | {"spool", "tokens", "port", "disk (state)", "folder state"} <= set(findings)
    assert [f for f in findings.values() if f.level == "fail"] == []
    assert all(f.advice for f in findings.values() if f.level != "ok")


def test_a_port_of_somebody_else_is_a_failure(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever listens there does not answer as this service does."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0)
        monkeypatch.setenv("PORT", str(other.getsockname()[1]))
        finding = found(paths)["port"]
    assert finding.level == "fail"
    assert "taken" in finding.message


def test_a_damaged_database_file_is_a_failure(paths: Paths) -> None:
    """quick_check, read-only; the advice names the way out."""
    with sqlite3.connect(paths.sqlite) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,) for _ in range(200)])
    connection.close()
    content = bytearray(paths.sqlite.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    paths.sqlite.write_bytes(content)
    finding = found(paths)["SQLite"]
    assert finding.level == "fail"
    assert "--repair" in finding.advice


def test_an_unreachable_server_fails_only_without_a_fallback(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With BOTH_DB the box starts all the same; the password is shown nowhere."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:geheim99@127.0.0.1:{free_port()}/d")
    monkeypatch.setenv("PORT", str(free_port()))
    assert found(paths)["PostgreSQL"].level == "warn"
    monkeypatch.setenv("BOTH_DB", "false")
    findings = found(paths)
    assert findings["PostgreSQL"].level == "fail"
    assert "geheim99" not in repr(findings)


def test_a_secret_that_others_can_read_is_warned_about(paths: Paths) -> None:
    """With the command that closes it."""
    paths.env_file.write_text("LOG_LEVEL=INFO\n")
    paths.env_file.chmod(0o644)
    finding = found(paths)["permissions"]
    assert finding.level == "warn"
    assert finding.advice == f"'chmod 600 {paths.env_file}'"


def test_an_examination_that_hangs_or_breaks_spares_the_others() -> None:
    """Each is bounded, and whatever it raises is a finding."""
    import threading

    def hang() -> Finding:
        threading.Event().wait(30)
        return Finding("x", "ok", "")

    def fail() -> Finding:
        raise RuntimeError("unexpected")

    findings = list(
        examine(
            [
                Examination("hangs", hang, "wait"),
                Examination("breaks", fail),
                Examination("works", lambda: Finding("works", "ok", "")),
            ],
            limit=0.2,
        )
    )
    assert [(f.name, f.level) for f in findings] == [
        ("hangs", "fail"),
        ("breaks", "fail"),
        ("works", "ok"),
    ]


def test_doctor_prints_a_document_for_programs(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status says whether anything failed."""
    monkeypatch.setenv("PORT", str(free_port()))
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert {"name", "level", "message", "advice"} == set(document["findings"][0])


def test_status_of_a_service_that_does_not_answer_shows_the_decision(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1, and where to look."""
    port = free_port()
    write_contracts(paths, PORT=str(port))
    assert main(["status"]) == 1
    output = capsys.readouterr().out
    assert f"does not answer on http://127.0.0.1:{port}" in output
    assert "no DATABASE_URL" in output
    assert main(["status", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["answers"] is False
    assert document["mode"] == "standalone"
    assert document["rows_waiting"] == 0


def test_status_refuses_an_address_that_is_none(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage, exit status 2."""
    assert main(["status", "--url", "ftp://x"]) == UsageError.exit_code
    assert "--url ftp://x" in capsys.readouterr().err


def test_status_of_something_else_on_the_port_is_no_readiness(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that closes, or that talks another language."""
    import threading

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        assert main(["status", "--url", url]) == 1
    assert "does not answer on" in capsys.readouterr().out
