# SPDX-License-Identifier: Apache-2.0
"""The preflight finds what is wrong and says what to do; 'status' needs nobody's leave."""

import json
import os
import shutil
import socket
import sqlite3
import threading
from pathlib import Path

import pytest

from edgepaas.cli import main
from edgepaas.doctor import Examination, Finding, examine, machine
from edgepaas.doctor.preflight import preflight
from edgepaas.errors import UsageError
from edgepaas.files.paths import Paths
from edgepaas.service.instance_locks import claim_serving
from edgepaas.settings import Settings
from tests.support.service_process import free_port, write_contracts


def found(paths: Paths) -> dict[str, Finding]:
    """Return the findings by name."""
    return {finding.name: finding for finding in preflight(paths)}


def test_a_fresh_box_has_nothing_that_fails(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the issue names is looked at."""
    monkeypatch.setenv("PORT", str(free_port()))
    findings = found(paths)
    looked_at = {"settings", "clock", "memory", "DNS", "PostgreSQL", "TLS", "SQLite", "schema"}
    assert looked_at | {"alerts", "tokens", "port", "disk (state)", "folder state"} <= set(findings)
    assert [f for f in findings.values() if f.level == "fail"] == []
    assert all(f.advice for f in findings.values() if f.level != "ok")


OPENED = {"AUTH_REQUIRED": "false", "HOST": "0.0.0.0"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (OPENED, "AUTH_REQUIRED"),
        ({"AUTH_REQUIRED": "false", "HOST": "127.0.0.1"}, ""),
        ({"ENV": "development", "HOST": "0.0.0.0"}, ""),
        ({"CORS_ENABLED": "true", "CORS_ORIGINS": "https://a.example,*"}, "CORS_ORIGINS"),
        ({"CORS_ENABLED": "true", "CORS_ORIGINS": "https://a.example"}, ""),
        ({"ALERT_WEBHOOK_URL": "http://hooks.example.org/x"}, "ALERT_WEBHOOK_URL"),
        ({"ALERT_HEARTBEAT_URL": "http://hooks.example.org/x"}, "ALERT_HEARTBEAT_URL"),
        ({"ALERT_WEBHOOK_URL": "http://127.0.0.1:9/x"}, ""),
        ({"ALERT_WEBHOOK_URL": "https://hooks.example.org/x"}, ""),
    ],
)
@pytest.mark.parametrize("in_force", [True, False])
def test_what_is_open_to_strangers_is_named(
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    named: str,
    in_force: bool,
) -> None:
    """By the stage that makes the settings, before and after they are in force."""
    for name, value in ({"PORT": str(free_port())} | given).items():
        monkeypatch.setenv(name, value)
    if in_force:
        assert main(["env"]) == 0
    warned = [
        finding.message
        for finding in preflight(paths)
        if finding.name in ("settings", "exposure") and finding.level == "warn"
    ]
    assert [message.split(":")[0].split(" ")[0] for message in warned] == [named] * bool(named)


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


def test_a_wrong_application_is_blamed_for_itself_alone(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Doctor advised to delete the tokens, or to move the port that systemd holds for the box."""
    monkeypatch.setenv("EDGEPAAS_APP", "nonesuch")
    for stage in ("env", "dbdecide", "schema"):
        main([stage])
    with socket.create_server(("127.0.0.1", 0)) as held:
        number = held.getsockname()[1]
        assert machine.own_socket_waits(number, holder=Path("/proc/self"))
        assert not machine.own_socket_waits(free_port(), holder=Path("/proc/self"))
    findings = found(paths)
    failing = {name for name, finding in findings.items() if finding.level == "fail"}
    assert failing == {"boot chain", "application"}
    assert "EDGEPAAS_APP" in findings["application"].advice
    assert "nonesuch" in findings["boot chain"].message


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        ("Listen=[::]:8080 (Stream)\nActiveState=active\n", True),
        ("ActiveState=active\nListen=0.0.0.0:8080 (Stream)\n", True),
        ("Listen=[::]:8080 (Stream)\nActiveState=inactive\n", False),
        ("Listen=[::]:18080 (Stream)\nActiveState=active\n", False),
        ("", False),
    ],
)
def test_a_user_who_may_not_see_the_managers_files_asks_it(
    tmp_path: Path, said: str, waits: bool
) -> None:
    """Doctor is the service's user; of a socket unit nothing lies in /run/systemd/units."""
    ask = ("printf", "%s", said)
    assert machine.own_socket_waits(8080, holder=tmp_path / "not-for-us", ask=ask) is waits


def test_a_machine_without_the_manager_has_no_socket_of_its(tmp_path: Path) -> None:
    ask = (str(tmp_path / "no-such-program"),)
    assert not machine.own_socket_waits(8080, holder=tmp_path / "not-for-us", ask=ask)


def test_a_state_folder_that_was_deleted_is_a_failure(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Doctor ended with 0: the folder 'does not exist yet'."""
    for stage in ("env", "dbdecide", "schema"):
        assert main([stage]) == 0
    shutil.rmtree(paths.state)
    capsys.readouterr()
    assert main(["doctor"]) == 1
    assert "was deleted while the box ran" in capsys.readouterr().out


def test_an_examination_that_breaks_gives_no_remedy_for_something_else() -> None:
    """A package that cannot be imported is no damaged file of tokens."""

    def broken() -> Finding:
        raise ImportError("no module named flask")

    (finding,) = examine([Examination("tokens", broken, "delete the damaged file")])
    assert finding.level == "fail"
    assert "delete" not in finding.advice
    assert "install" in finding.advice


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


def test_doctor_judges_by_the_settings_in_force(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by those of the shell that it is called from; its first line says which."""
    port = free_port()
    write_contracts(paths, PORT=str(port))
    monkeypatch.setenv("PORT", str(free_port()))
    findings = list(preflight(paths))
    assert findings[0] == Finding("settings", "ok", f"in force: {paths.env_contract}")
    assert {f.name: f for f in findings}["port"].message == f"127.0.0.1:{port} is free"
    paths.env_file.write_text("PORT=1\n")
    later = paths.env_contract.stat().st_mtime + 10
    os.utime(paths.env_file, (later, later))
    changed = next(iter(preflight(paths)))
    assert changed.level == "warn"
    assert f"{paths.env_file} was changed after that" in changed.message


def test_doctor_names_no_file_that_is_not_there(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first start, with and without a file of settings."""
    monkeypatch.setenv("PORT", str(free_port()))
    assert found(paths)["settings"].message.endswith(": the environment is valid")
    paths.env_file.write_text("LOG_LEVEL=INFO\n")
    assert f"{paths.env_file} and the environment" in found(paths)["settings"].message


def test_the_port_of_this_box_s_own_service_is_no_failure(paths: Paths) -> None:
    """Somebody else's EdgePaaS is one: it does not serve these folders."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        write_contracts(paths, PORT=str(port))
        settings = Settings.read(paths.env_contract)
        stop = answering(listener, b'HTTP/1.0 200 OK\r\n\r\n{"status": "ok"}\n')
        assert machine.port(paths, settings).level == "fail"
        lock = claim_serving(paths)
        assert lock is not None
        finding = machine.port(paths, settings)
        os.close(lock)
        stop.set()
    assert finding.level == "ok"
    assert f"{port} is in use by this box's own service, process {os.getpid()}" in finding.message


def answering(listener: socket.socket, answer: bytes) -> threading.Event:
    """Answer every connection with *answer* until the event that is returned is set."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

    threading.Thread(target=run, daemon=True).start()
    return over


@pytest.mark.parametrize("url", ["notaurl", "http://", "http://h:port", "https://h", "h:99999"])
def test_status_names_an_address_that_cannot_be_one(
    url: str, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage, not a failed connection."""
    assert main(["status", "--url", url]) == UsageError.exit_code
    assert f"--url {url}: an address like" in capsys.readouterr().err


def test_status_says_in_words_why_nothing_answers(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """No error number of the kernel's."""
    assert main(["status", "--url", f"127.0.0.1:{free_port()}"]) == 1
    assert "nothing listens there" in capsys.readouterr().out
    assert main(["status", "--url", "http://nowhere.invalid:1"]) == 1
    output = capsys.readouterr().out
    assert "the name cannot be resolved" in output
    assert "Errno" not in output


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ('{"state": "fallback", "mode": "fallback", "rows_waiting": 7}', True),
        ('{"state": "standalone", "mode": "standalone", "rows_waiting": 0}', False),
    ],
)
def test_status_counts_waiting_rows_only_where_there_is_a_hub(
    document: str, shown: bool, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the service says of them goes before what the files say."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        stop = answering(listener, f"HTTP/1.0 200 OK\r\n\r\n{document}".encode())
        assert main(["status", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}"]) == 0
        stop.set()
    assert ("waiting      7 rows" in capsys.readouterr().out) is shown
