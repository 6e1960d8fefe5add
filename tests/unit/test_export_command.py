# SPDX-License-Identifier: Apache-2.0
"""``edgepaas export``: one door to what the platform and the applications export."""

import argparse

import pytest

from edgepaas.app.commands import Command
from edgepaas.cli import main, privileges
from edgepaas.cli.operator import export
from edgepaas.files.paths import Paths


def test_alerts_are_exported_as_by_the_command_of_alerts(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["alert", "the pump is dry", "--fingerprint", "pump"])
    main(["alerts", "deliver"])
    capsys.readouterr()
    printed = []
    for words in (["alerts", "export"], ["export", "alerts"]):
        assert main(words) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "the pump is dry" in printed[0]


def test_readings_take_the_options_of_the_applications_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pages = []
    for words in (["telemetry", "export"], ["export", "readings"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        pages.append(capsys.readouterr().out.partition("\n\n")[2])
    assert pages[0] == pages[1]
    assert "--device" in pages[1]


@pytest.mark.parametrize(("needs", "asked"), [(True, ["export notes"]), (False, [])])
def test_root_becomes_the_services_user_where_the_exporter_needs_it(
    monkeypatch: pytest.MonkeyPatch, needs: bool, asked: list[str]
) -> None:
    became: list[str] = []
    command = Command("dump", "dump notes", lambda _: 3, needs_service_user=needs, exports="notes")
    monkeypatch.setattr(export, "become_service_user", became.append)
    monkeypatch.setattr(export, "_commands_that_export", lambda: iter([command, command]))
    assert main(["export", "notes"]) == 3
    assert became == asked


def test_what_nobody_exports_is_named_and_the_alerts_are_the_services(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "reading"])
    assert ended.value.code == 2
    assert "did you mean 'readings'?" in capsys.readouterr().err

    def refuse(command: str) -> None:
        raise privileges.NotAllowed(command)

    monkeypatch.setattr(export, "become_service_user", refuse)
    assert main(["export", "alerts"]) == 1


def test_a_command_exports_nothing_unless_it_says_so() -> None:
    def run(_: argparse.Namespace) -> int:
        return 0

    assert Command("list", "list notes", run).exports == ""
