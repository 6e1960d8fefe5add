# SPDX-License-Identifier: Apache-2.0
"""Completion of the command line, by the shells themselves."""

import shutil
import subprocess
from pathlib import Path

import pytest

from edgepaas.cli import COMMANDS
from edgepaas.cli.command_tree import Node, Option, command_tree
from edgepaas.cli.completion_scripts import SHELLS, completion_script

_ASK_BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_edgepaas
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered_by_bash(script: Path, *words: str) -> list[str]:
    command = ["bash", "-c", _ASK_BASH, "bash", str(script), *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return run.stdout.split()


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, tree = tmp_path_factory.mktemp("completion"), command_tree()
    found = {shell: folder / f"edgepaas.{shell}" for shell in SHELLS}
    for shell, file in found.items():
        file.write_text(completion_script(shell, tree))
    return found


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("edgepaas", "stat"), ["status"]),
        (("edgepaas", "token", "re"), ["revoke"]),
        (("edgepaas", "token", "create", "--r"), ["--read-only"]),
        (("edgepaas", "token", "create", "gauge", "--r"), ["--read-only"]),
        (("edgepaas", "completion", "f"), ["fish"]),
        (("edgepaas", "help", "doc"), ["doctor"]),
        (("edgepaas", "telemetry", "im"), ["import"]),
        (("edgepaas", "no-such-command", "re"), []),
    ],
)
def test_bash_offers_what_may_follow(
    scripts: dict[str, Path], words: tuple[str, ...], offered: list[str]
) -> None:
    assert offered_by_bash(scripts["bash"], *words) == offered


def test_bash_offers_every_command(scripts: dict[str, Path]) -> None:
    assert set(COMMANDS) < set(offered_by_bash(scripts["bash"], "edgepaas", ""))


def test_the_values_of_an_option_are_offered_and_none_where_they_are_open(tmp_path: Path) -> None:
    below = Node(
        "alert",
        options=(
            Option(("-l", "--level"), "it's how bad", True, ("info", "critical")),
            Option(("--file",), "", True),
        ),
    )
    script = tmp_path / "script"
    script.write_text(completion_script("bash", Node("edgepaas", below={"alert": below})))
    assert offered_by_bash(script, "edgepaas", "alert", "--level", "c") == ["critical"]
    assert offered_by_bash(script, "edgepaas", "alert", "-l", "") == ["info", "critical"]
    assert offered_by_bash(script, "edgepaas", "alert", "--file", "") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_reads_its_script(scripts: dict[str, Path], shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = [shell, "-n", str(scripts[shell])]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_commands_with_what_they_do(scripts: dict[str, Path]) -> None:
    ask = f"source {scripts['fish']}; complete -C'edgepaas token '"
    run = subprocess.run(["fish", "-c", ask], capture_output=True, text=True, check=True)
    verbs = {line.partition("\t")[0] for line in run.stdout.splitlines()}
    assert verbs == {"create", "list", "revoke"}
    assert "make a token" in run.stdout


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize("words", ["nosuch ", "nosuch --", "nosuch token ", "nosuch token cr"])
def test_fish_offers_nothing_after_a_word_that_is_no_command(
    scripts: dict[str, Path], words: str
) -> None:
    ask = f"source {scripts['fish']}; complete -C'edgepaas {words}'"
    run = subprocess.run(["fish", "-c", ask], capture_output=True, text=True, check=True)
    assert run.stdout == ""
