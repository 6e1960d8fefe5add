# SPDX-License-Identifier: Apache-2.0
"""Every piece of advice that the product prints is in a register, and says what can be done.

Two registers: the commands that messages quote, doctor's and refusals' (read from the source), and
what alerts advise (the catalogue). What can be run is run in the state that prints
it, by tests/integration/test_advice_followed.py or by the test that is named; what only a person
can do says so. A new piece of advice that is in no register fails here.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.alerts.catalogue import CATALOGUE
from edgepaas.cli.command_tree import Node, command_tree

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ROOT / "edgepaas"
UNITS = {path.name for path in (ROOT / "systemd").iterdir()}

_QUOTED = re.compile(r"'((?:sudo )?(?:edgepaas|systemctl|journalctl|alembic|make) [^'\n]*)'")
#: Stands for what is only known when the text is printed.
_UNKNOWN = "\x00"

#: A person has to act beyond the box, or judge: there is no command to be run.
PERSON = "a person"
#: The command only shows something: that it can be run as it stands is tested here.
SHOWS = "shows"

_FOLLOWED = "tests/integration/test_advice_followed.py::"
_REPAIR = "tests/integration/test_schema_repair_server.py::"
_INSPECT = "tests/integration/test_sync_inspect.py::"
_AUDIT = "tests/integration/test_audit_live.py::"
_FORGOTTEN = (
    "tests/integration/test_revisions_by_way.py::"
    "test_a_box_that_is_gone_for_good_is_taken_out_by_a_command"
)
_ALERTS = "tests/unit/test_alerts_commands.py::"

#: What an alert advises, by its pattern: which test carries it out, or that a person has to.
ALERTS: dict[str, str] = {
    "settings:*": "tests/unit/test_health_gate.py::"
    "test_a_setting_that_cannot_be_read_is_no_green_box",
    "unit *": SHOWS,
    "service-start": SHOWS,
    "database-fallback": PERSON,
    "database-lost": PERSON,
    "postgres-unusable": _REPAIR
    + "test_the_postgresql_that_is_broken_is_mended_while_sqlite_serves",
    "writes-refused:*": PERSON,
    "sqlite-foreign": PERSON,
    "schema-refused": PERSON,
    "sqlite-unmigrated": _FOLLOWED
    + "test_a_file_that_serves_unmigrated_is_mended_as_its_alert_says",
    "sqlite-rebuilt": PERSON,
    "sqlite-replaced": SHOWS,
    "rows-lost-in-damage": PERSON,
    "quarantine-pruned": PERSON,
    "not-captured": _FOLLOWED + "test_doctors_remedy_for_capture_is_one",
    "capture-restored": SHOWS,
    "hub-not-captured": "tests/integration/test_hub_rights.py::"
    "test_what_the_owner_runs_adds_what_is_lacking",
    "fallback-not-ready": SHOWS,
    "salvage-failed": PERSON,
    "disk-budget": PERSON,
    "journal-unusable": PERSON,
    "journal-in-use": PERSON,
    "rows-shed": PERSON,
    "rows-not-in-postgres": SHOWS,
    "rows-left-behind": _FOLLOWED + "test_rows_left_behind_go_home_as_the_alert_says",
    "sync-dead-letters": _INSPECT + "test_a_dead_letter_is_listed_shown_retried_and_discarded",
    "sync-conflicts": _INSPECT + "test_a_conflict_is_listed_with_both_values_and_settled",
    "sync-hub-lost": _INSPECT + "test_lost_rows_are_acknowledged_by_their_number",
    "acknowledged-rows-lost": "tests/integration/test_faults_lost_for_good.py::"
    "test_what_no_journal_reaches_is_lost_and_counted_exactly",
    "journal-unread": PERSON,
    "audit-discrepancy": _AUDIT
    + "test_rows_that_are_deleted_in_postgresql_come_home_again_by_themselves",
    "state-lost": _AUDIT
    + "test_a_state_folder_that_was_deleted_with_rows_waiting_is_a_critical_alert",
    "sync-fork": SHOWS,
    "node-twice": "tests/unit/test_schema_forwarding.py::"
    "test_a_file_of_another_box_is_another_stream",
    "hub-misconfigured": SHOWS,
    "hub-schema": SHOWS,
    "hub-rights": "tests/integration/test_hub_rights.py::"
    "test_what_the_owner_runs_adds_what_is_lacking",
    "hub-revision-waits": _FORGOTTEN,
    "hub-trouble": SHOWS,
    "hub-away": PERSON,
    "sync-file": SHOWS,
    "sync-failed": PERSON,
    "system:cpu": PERSON,
    "system:memory": PERSON,
    "system:disk": PERSON,
    "system:temperature": PERSON,
    "system:clock": PERSON,
    "service:*": PERSON,
    "check:*": SHOWS,
    "task:*": SHOWS,
    "alerts-without-room": PERSON,
    "certificate-ends": PERSON,
}

#: Where a command that a message quotes is carried out, in the state that prints it.
COMMANDS: dict[str, str] = {
    "--help": SHOWS,
    'alert "all is well" --fingerprint': SHOWS,
    "alerts catalogue --markdown": SHOWS,
    "alerts deliver": _ALERTS + "test_deliver_without_channels_tells_the_log",
    "alerts discard": _ALERTS + "test_discard_forgets_what_waits_and_what_is_dead",
    "alerts list": SHOWS,
    "alerts list --all": SHOWS,
    "alerts retry": _ALERTS + "test_retry_sends_what_was_dead_under_its_key",
    "alerts test": _ALERTS + "test_test_says_what_each_channel_answered",
    "audit": SHOWS,
    "audit --acknowledge": _AUDIT
    + "test_rows_that_are_deleted_in_postgresql_come_home_again_by_themselves",
    "audit --deep": SHOWS,
    "backup": "tests/unit/test_backup.py::test_the_commands",
    "backup --verify": "tests/unit/test_backup.py::test_the_commands",
    "completion bash": SHOWS,
    "completion fish": SHOWS,
    "completion zsh": SHOWS,
    "dbdecide": _FOLLOWED + "test_what_a_command_without_contracts_asks_for_leads_to_its_answer",
    "doctor": SHOWS,
    "drill outage": SHOWS,
    "env": _FOLLOWED + "test_what_a_command_without_contracts_asks_for_leads_to_its_answer",
    "env --explain": SHOWS,
    "help": SHOWS,
    "nodes": SHOWS,
    "nodes forget": _FORGOTTEN,
    "schema": _FOLLOWED + "test_a_file_behind_this_build_is_brought_to_it_as_the_check_says",
    "schema --hub": "tests/integration/test_hub_rights.py::"
    "test_what_the_owner_runs_adds_what_is_lacking",
    "schema --repair": _FOLLOWED + "test_doctors_remedy_for_the_file_is_one",
    "schema --revision": "tests/integration/test_schema_command.py::"
    "test_two_heads_are_joined_by_the_command_that_the_repair_names",
    "schema --sql": "tests/integration/test_hub_rights.py::"
    "test_what_the_owner_runs_adds_what_is_lacking",
    "settings": SHOWS,
    "settings --markdown": SHOWS,
    "status": SHOWS,
    "sync": _FOLLOWED + "test_rows_left_behind_go_home_as_the_alert_says",
    "sync --once": "tests/integration/test_sync_worker.py::"
    "test_rows_go_home_as_they_come_whoever_writes_them_and_whatever_happens_meanwhile",
    "sync acknowledge": _INSPECT + "test_lost_rows_are_acknowledged_by_their_number",
    "sync conflicts": _INSPECT + "test_a_conflict_is_listed_with_both_values_and_settled",
    "sync dead-letters": _INSPECT + "test_a_dead_letter_is_listed_shown_retried_and_discarded",
    "sync status": SHOWS,
    "telemetry delete": "tests/integration/test_reading_deletions.py::"
    "test_the_command_shows_how_many_before_it_deletes_them",
    "token create": _FOLLOWED + "test_doctors_remedy_for_no_token_is_one",
    "token list": SHOWS,
    "token revoke": _FOLLOWED + "test_a_token_whose_name_is_taken_can_be_made_as_the_refusal_says",
    "up": _FOLLOWED + "test_doctors_remedy_for_capture_is_one",
    "verify": SHOWS,
}


def _texts(tree: ast.AST) -> Iterator[str]:
    """Yield each string of *tree*; in place of what is filled in later, _UNKNOWN."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else _UNKNOWN
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def quoted_commands() -> dict[str, Path]:
    """Return each command that a message of the product quotes, and a file that does."""
    found: dict[str, Path] = {}
    for path in sorted(PRODUCT.rglob("*.py")):
        for text in _texts(ast.parse(path.read_bytes())):
            for command in _QUOTED.findall(" ".join(text.split(" "))):
                found.setdefault(command.removeprefix("sudo "), path)
    return found


QUOTED = quoted_commands()


@pytest.fixture(scope="module")
def tree() -> Node:
    """The commands that there are."""
    return command_tree()


@pytest.mark.parametrize("command", sorted(QUOTED), ids=lambda text: text.replace(_UNKNOWN, "…"))
def test_a_command_that_a_message_quotes_can_be_run_as_it_stands(command: str, tree: Node) -> None:
    """Its words are commands, verbs and options that there are; its units are ours."""
    program, *words = command.split()
    where = QUOTED[command]
    assert program != "alembic", f"{where}: it finds no configuration on a box"
    if program == "make":
        targets = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{re.escape(words[0])}:", targets, re.MULTILINE), where
    elif program in ("systemctl", "journalctl"):
        for word in words[1:] if program == "systemctl" else words:
            if word.startswith("edgepaas") and _UNKNOWN not in word and "UNIT" not in word:
                assert {word, f"{word}.service"} & UNITS, f"{where}: there is no unit {word}"
    else:
        _assert_is_a_command(words, tree, str(where))


def _assert_is_a_command(words: list[str], node: Node, where: str) -> None:
    for position, word in enumerate(words):
        if _UNKNOWN in word or "%" in word or (word.isupper() and position):
            return  # filled in when it is printed, or by who runs it
        if word.startswith("-"):
            names = {name for option in node.options for name in option.names}
            assert word in names, f"{where}: {node.name} has no {word}"
        elif node.below:
            assert word in node.below, f"{where}: {node.name} has no {word}"
            node = node.below[word]


def test_every_alert_that_can_be_raised_is_in_the_register() -> None:
    """And nothing else is."""
    assert {entry.pattern for entry in CATALOGUE} == set(ALERTS)


def test_every_command_that_a_message_quotes_is_in_the_register() -> None:
    """By the command without its placeholders."""
    quoted = {_plain(command) for command in QUOTED if command.startswith("edgepaas ")}
    assert quoted - {"", "%s"} == set(COMMANDS)  # those are filled in whole


def _plain(command: str) -> str:
    words = []
    for word in command.split()[1:]:
        if _UNKNOWN in word or word.isupper():
            break
        words.append(word)
    return " ".join(words)


@pytest.mark.parametrize("place", sorted({*ALERTS.values(), *COMMANDS.values()} - {PERSON, SHOWS}))
def test_where_advice_is_carried_out_there_is_a_test(place: str) -> None:
    """Named as pytest does: FILE::FUNCTION."""
    file, _, name = place.partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(), place
