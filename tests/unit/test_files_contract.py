# SPDX-License-Identifier: Apache-2.0
"""Contract files: a shell and the reader take the same value from every line."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.files.contract import (
    ContractMissing,
    parse_contract,
    read_contract,
    render_contract,
    withdraw_contract,
    write_contract,
)

VALUES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(list("\t\"'\\$`!#;&|<>*?~ ")),
    max_size=60,
)


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True), VALUES))
def test_what_is_written_is_read_back(values: dict[str, str]) -> None:
    assert parse_contract(render_contract(values)) == values


@given(st.lists(VALUES, min_size=1, max_size=20))
def test_a_posix_shell_reads_the_same_values(values: list[str]) -> None:
    """One shell sources the file and prints every value back, NUL-separated."""
    contract = render_contract({f"V{number}": value for number, value in enumerate(values)})
    prints = "".join(f"printf '%s\\0' \"$V{number}\"\n" for number in range(len(values)))
    result = subprocess.run(
        ["sh", "-c", contract + prints], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert result.stdout.decode().split("\0")[:-1] == values


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\x1b[31m", "\ud800"])
def test_a_value_that_no_line_can_carry_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="NAME"):
        render_contract({"NAME": value})


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä"])
def test_a_name_that_no_shell_takes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="variable"):
        render_contract({name: "x"})


def test_a_missing_contract_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(ContractMissing, match="edgepaas dbdecide"):
        read_contract(tmp_path / "db.env", written_by="dbdecide")


def test_a_damaged_contract_names_the_line_and_the_stage(tmp_path: Path) -> None:
    path = tmp_path / "db.env"
    path.write_text('A="1"\nB=2; rm -rf /\n')
    with pytest.raises(ContractMissing, match=r"line 2.*edgepaas dbdecide"):
        read_contract(path, written_by="dbdecide")


def test_only_the_owner_may_read_a_contract_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_contract(tmp_path / "env", {"SECRET": "x"})
    finally:
        os.umask(old)
    assert (tmp_path / "env").stat().st_mode & 0o777 == 0o600


def test_withdrawing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    withdraw_contract(tmp_path / "env")
    write_contract(tmp_path / "env", {})
    withdraw_contract(tmp_path / "env")
    assert not (tmp_path / "env").exists()


def test_a_contract_that_was_blown_up_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text('A="' + "x" * 5_000_000 + '"\n')
    with pytest.raises(ContractMissing, match="larger than"):
        read_contract(path, written_by="env")
