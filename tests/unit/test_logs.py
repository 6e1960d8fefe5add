# SPDX-License-Identifier: Apache-2.0
"""Log lines: their formats, and the secrets that never reach them."""

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.logs import PRINTED, configure_logging, register_secret, request_id
from edgepaas.logs import redact as redact_module
from edgepaas.logs.redact import redact
from edgepaas.logs.rotating_file import RotatingLogFile
from edgepaas.logs.secret_parts import secret_parts
from edgepaas.logs.setup import ConsoleHandler, KeyValueFormatter
from edgepaas.settings import Settings
from edgepaas.terminal import announce, print_json, print_table, say


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach postgresql://edge:hunter2@db:5432/x",
        "postgresql+pg8000://edge:hunt/er2hunter2@db/x",
        "amqp://u:hunter2@q and redis://:hunter2@r",
        "Authorization: Bearer hunter2hunter2",
        "password=hunter2 host=db",
        "VAULT__TOKEN=hunter2",
        '{"secret": hunter2}',
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    assert "hunter2" not in redact(text)


def test_a_registered_secret_is_masked_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    register_secret("s3cr3t-value-of-this-test")
    configure_logging(file=tmp_path / "box.log")
    try:
        raise RuntimeError("login with s3cr3t-value-of-this-test failed")
    except RuntimeError:
        logging.getLogger("x").exception("for %s", "s3cr3t-value-of-this-test")
    for text in (capsys.readouterr().err, (tmp_path / "box.log").read_text()):
        assert "s3cr3t-value-of-this-test" not in text
        assert "RuntimeError: login with **** failed" in text


def test_a_line_carries_every_key_in_order_and_quotes_what_needs_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging()
    token = request_id.set("r-1")
    try:
        logging.getLogger("edgepaas.x").warning('two words and a "quote"\nand a line')
    finally:
        request_id.reset(token)
    line = capsys.readouterr().err.rstrip("\n")
    assert "\n" not in line
    assert line.startswith("timestamp=")
    assert 'level=WARNING logger=edgepaas.x message="two words' in line
    assert line.endswith("request_id=r-1")


def test_json_lines_hold_the_same_keys(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(style="json")
    logging.getLogger("x").error("häßlich")
    entry = json.loads(capsys.readouterr().err)
    assert list(entry) == ["timestamp", "level", "logger", "message", "request_id"]
    assert entry["message"] == "häßlich"


def test_a_stages_line_is_one_of_the_log_where_that_is_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A container's output is one stream of one format; a person's stays as it is."""
    configure_logging(style="json")
    announce("decision", "postgresql://edge:hunter2@db refused")
    entry = json.loads(capsys.readouterr().out)
    assert (entry["logger"], entry["level"]) == ("edgepaas.decision", "INFO")
    assert entry["message"] == "postgresql://edge:****@db refused"
    configure_logging()
    announce("decision", "SQLite")
    assert capsys.readouterr().out == "decision     SQLite\n"


def test_the_journal_gets_a_priority_on_every_line() -> None:
    stream = io.StringIO()
    handler = ConsoleHandler(stream, journal=True)
    handler.setFormatter(KeyValueFormatter())
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "bad", None, None)
    record.exc_text = "Traceback\n  line"
    handler.handle(record)
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert [line[:3] for line in lines] == ["<3>"] * 3


def test_a_log_file_that_cannot_be_opened_is_said_and_done_without(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    configure_logging(file=tmp_path / "file" / "box.log")
    logging.getLogger("x").warning("still here")
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert "still here" in error


def test_arguments_that_do_not_fit_their_format_lose_no_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging()
    logging.getLogger("x").warning("%d rows", "many")
    assert "many" in capsys.readouterr().err


def test_the_pool_s_tracebacks_of_lost_connections_are_not_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """That a connection was lost is one line of ours; SQLAlchemy's would be eighty."""
    configure_logging(level="DEBUG")
    pool = logging.getLogger("sqlalchemy.pool.impl.QueuePool")
    pool.error("Exception terminating connection", exc_info=OSError("gone"))
    logging.getLogger("edgepaas.database").warning("the connection to PostgreSQL was lost")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "was lost" in lines[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_was_printed_is_not_logged_to_the_same_terminal_as_well(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The log file has it in any case."""

    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    stream = Stream()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("sys.stdout", stream)
    configure_logging(file=tmp_path / "log")
    logging.getLogger("x").info("ready", extra=PRINTED)
    logging.getLogger("x").info("other")
    assert ("ready" in stream.getvalue()) is not terminal
    assert "other" in stream.getvalue()
    assert "ready" in (tmp_path / "log").read_text()


def test_a_full_log_file_is_begun_anew_and_the_last_few_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "box.log"
    handler = RotatingLogFile(file, full_at=10, kept=2)
    for number in range(5):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, f"line {number} ….", None, None))
    handler.close()
    kept = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert kept == {
        "box.log": "line 4 ….\n",
        "box.log.1": "line 3 ….\n",
        "box.log.2": "line 2 ….\n",
    }


def test_a_log_file_that_another_process_filled_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "box.log"
    handler = RotatingLogFile(file, full_at=10)
    file.write_text("filled by another process\n")
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "mine", None, None))
    handler.close()
    assert file.read_text() == "mine\n"
    assert (tmp_path / "box.log.1").read_text() == "filled by another process\n"


def test_a_log_file_that_cannot_be_rotated_is_written_on_and_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "box.log"
    handler = RotatingLogFile(file, full_at=1, kept=1)
    (tmp_path / "box.log.1" / "in the way").mkdir(parents=True)
    for number in range(3):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, f"line {number}", None, None))
    handler.close()
    assert file.read_text() == "line 0\nline 1\nline 2\n"
    assert capsys.readouterr().err.count("the log file cannot be written") == 1


def test_a_log_file_that_is_a_device_is_never_rotated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = RotatingLogFile(Path("/dev/full"), full_at=0)
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "line", None, None))
    assert "No space left" in capsys.readouterr().err
    assert Path("/dev/full").is_char_device()


def test_of_several_processes_that_write_one_file_one_rotates_it(tmp_path: Path) -> None:
    """Each with a handler of its own, as 'serve' and 'alerts deliver' have it."""
    file = tmp_path / "box.log"
    file.write_text("x" * 100 + "\n")
    handlers = [RotatingLogFile(file, full_at=90, kept=5) for _ in range(3)]
    for number in range(6):
        record = logging.LogRecord("x", logging.INFO, "", 0, f"n{number}", None, None)
        handlers[number % 3].handle(record)
    for handler in handlers:
        handler.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box.log", "box.log.1"]
    assert file.read_text() == "".join(f"n{number}\n" for number in range(6))


def test_processes_that_rotate_at_once_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "box.log"
    script = (
        "import logging, sys; from pathlib import Path;"
        "from edgepaas.logs.rotating_file import RotatingLogFile as R;"
        "h = R(Path(sys.argv[1]), full_at=2000, kept=200);"
        "[h.handle(logging.LogRecord('x', 20, '', 0, f'{sys.argv[2]}-{n:04}', None, None))"
        " for n in range(500)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(file), str(name)]) for name in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(lines) == [f"{name}-{n:04}" for name in range(3) for n in range(500)]
    # A second renaming for the same fill would leave files of a line or two.
    sizes = [path.stat().st_size for path in tmp_path.iterdir() if path != file]
    assert min(sizes) >= 1900


@pytest.mark.parametrize(
    ("password", "text", "masked"),
    [
        ("edge", "edgepaas serves; user edge", "edgepaas serves; user ****"),
        ("edgepaas", "edgepaas-sync of edgepaas", "edgepaas-sync of edgepaas"),
        ("postgres", 'role "postgres" does not exist', 'role "postgres" does not exist'),
        ("pa'ss\\wörd", "{'M': \"bad pa'ss\\\\wörd\"}", "{'M': \"bad ****\"}"),
        ('say "hi" 12', json.dumps('say "hi" 12 is wrong'), '"**** is wrong"'),
        ("p@ss w0rd", "no p%40ss%20w0rd there", "no **** there"),
        ("a<b&c>9", "<p>a&lt;b&amp;c&gt;9</p>", "<p>****</p>"),
        ("Xy9-Zq7-Ab3-Cd1", "tokenXy9-Zq7-Ab3-Cd1end", "token****end"),
    ],
)
def test_a_secret_is_masked_whole_and_no_word_that_holds_its_letters(
    monkeypatch: pytest.MonkeyPatch, password: str, text: str, masked: str
) -> None:
    monkeypatch.setattr(redact_module, "_secrets", set())
    monkeypatch.setattr(redact_module, "_patterns", {})
    register_secret(password)
    assert redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "ERROR: syntax error at or near \"ALTER ROLE edge PASSWORD 'hunter2 x'\"",
        "postgresql://edge:hunt@er2hunter2@db/x refused",
        "password: 'two hunter2 words'",
        '"secret" = "hunter2\\" hunter2"',
        "Authorization: Basic aHVudGVyMjpodW50ZXIy hunter",
    ],
)
def test_what_stands_where_a_secret_stands_is_masked_as_a_whole(text: str) -> None:
    assert not re.search("hunter2|er2|aHVudGVy", redact(text))


def test_the_parts_of_an_address_are_secrets_and_what_is_shown_anyway_is_none() -> None:
    found = Settings.of(
        DATABASE_URL="postgresql://edge:hunt%2Fer2@db/plant?sslpassword=abc12345",
        ALERT_WEBHOOK_URL="https://hooks.slack.com/services/T0AB/B0CD/xYz9?sig=q1w2",
        SMTP__USERNAME="plant7",
        SMTP__PASSWORD="plant7",
    ).secrets()
    assert {"hunt/er2", "abc12345", "xYz9", "q1w2", "T0AB"} <= set(found)
    assert "/services/T0AB/B0CD/xYz9?sig=q1w2" in found
    assert not {"plant7", "edge", "plant", "db", "services"} & set(found)


@pytest.mark.parametrize(
    "address",
    ["sqlite:////srv/data/state/box.db", "file:///srv/data/state/x", "redis://:hunter2@srv/data"],
)
def test_where_a_database_lies_is_no_secret(address: str) -> None:
    """Else 'data' and 'state' would be masked in every path of the box."""
    assert set(secret_parts(address)) <= {address, "hunter2"}


def test_a_line_holds_nothing_that_moves_a_cursor_or_turns_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging()
    logging.getLogger("x").warning("a\x1b[2J\x9b1A\u202egpj\u2028b")
    line = capsys.readouterr().err
    assert not re.search("[\x1b\x9b\u202e\u2028]", line)
    assert "\\\\x1b[2J" in line
    print_table(("NAME",), [("a\x1b[2J\nb\u202ec",)])
    print_json({"name": "a\x9b\u202e\U000e0041"})
    say("stage\x1b", "a\u2066b")
    assert not re.search("[\x1b\x9b\u202e\u2066\U000e0041]", capsys.readouterr().out)
