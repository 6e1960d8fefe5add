# SPDX-License-Identifier: Apache-2.0
"""The tolerant reader of the file of settings."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.settings.envfile import LONGEST_FILE, LONGEST_LINE, parse_env, read_env_file


@pytest.mark.parametrize(
    ("line", "name", "text"),
    [
        ("PORT=9000", "PORT", "9000"),
        ("  PORT =  9000  ", "PORT", "9000"),
        ("export PORT=9000", "PORT", "9000"),
        ("set PORT=9000", "PORT", "9000"),
        ("port=9000", "PORT", "9000"),
        ('PORT="9000"', "PORT", "9000"),
        ("PORT='9000'", "PORT", "9000"),
        ("PORT=“9000”", "PORT", "9000"),
        ("PORT=9000 # the port", "PORT", "9000"),
        ('PORT="9000" # the port', "PORT", "9000"),
        ("PORT=# nothing", "PORT", ""),
        ("PORT=", "PORT", ""),
        ('PORT=""', "PORT", ""),
        ("PORT=a#b", "PORT", "a#b"),
        ("PORT=a=b", "PORT", "a=b"),
        (r'A="a\"b\\c\$d\n"', "A", r'a"b\c$d\n'),
        (r"A='a\"b'", "A", r"a\"b"),
        ('A=" a "', "A", " a "),
        ('A="open', "A", "open"),
        ("A='open", "A", "open"),
        ('A=mid"dle', "A", 'mid"dle'),
        ('A="a"b', "A", '"a"b'),
        ("APP_name=x", "APP_name", "x"),
        ("A=ü", "A", "ü"),
        ("\ufeffA=x", "A", "x"),
    ],
)
def test_an_assignment_is_understood(line: str, name: str, text: str) -> None:
    parsed = parse_env(line.encode())
    assert {n: e.text for n, e in parsed.entries.items()} == {name: text}


@pytest.mark.parametrize(
    "line", ["PORT: 9000", "PORT", "=9000", "9PORT=1", "<html>", "[section]", "A B=1", "$X=1"]
)
def test_what_is_no_assignment_is_remarked_with_its_line(line: str) -> None:
    parsed = parse_env(f"A=1\n{line}\nB=2\n".encode())
    assert set(parsed.entries) == {"A", "B"}
    assert parsed.remarks == [("", "line 2 left out: not NAME=value")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_end_of_line_is_understood(end: str) -> None:
    parsed = parse_env(end.join(["# c", "A=1", "", "; c", "B=2"]).encode())
    assert {n: (e.text, e.line) for n, e in parsed.entries.items()} == {
        "A": ("1", 2),
        "B": ("2", 5),
    }
    assert not parsed.remarks


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_every_encoding_that_editors_write_is_understood(encoding: str) -> None:
    parsed = parse_env("PORT=9000\r\nTHREADS=3\r\n".encode(encoding))
    assert {n: e.text for n, e in parsed.entries.items()} == {"PORT": "9000", "THREADS": "3"}


def test_the_last_of_two_counts_and_is_remarked() -> None:
    parsed = parse_env(b"A=1\na=2\n")
    assert parsed.entries["A"].text == "2"
    assert parsed.remarks == [("A", "is set in lines 1, 2; the last counts")]


def test_bad_lines_cost_only_themselves() -> None:
    data = b"A=1\nB=\xff\xfe\nC=a\0b\n" + b"D=" + b"x" * LONGEST_LINE + b"\nE=5\n"
    parsed = parse_env(data)
    assert set(parsed.entries) == {"A", "E"}
    assert len(parsed.remarks) == 3


def test_many_bad_lines_are_one_remark() -> None:
    parsed = parse_env(b"nonsense\n" * 1000)
    assert parsed.remarks == [("", "lines 1, 2, 3, 4, 5 and 995 more left out: not NAME=value")]


def test_a_bad_line_is_never_repeated() -> None:
    parsed = parse_env(b"geheim geheim\nPASSWORD geheim\n")
    assert "geheim" not in str(parsed.remarks)


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    parsed = read_env_file(tmp_path / "none")
    assert (parsed.entries, parsed.remarks, parsed.missing) == ({}, [], True)


def test_what_is_no_regular_file_is_remarked_and_never_blocks(tmp_path: Path) -> None:
    """A folder, a pipe without a writer, a device, a loop of links."""
    pipe, loop, folder = tmp_path / "pipe", tmp_path / "loop", tmp_path / "folder"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    folder.mkdir()
    for path in (pipe, loop, folder, Path("/dev/zero"), Path("/dev/null"), Path("a\0b")):
        parsed = read_env_file(path)
        assert parsed.entries == {}
        assert len(parsed.remarks) == 1


def test_a_huge_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b"A=1\n" + b"#" * (LONGEST_FILE + 10) + b"\nB=2\n")
    parsed = read_env_file(path)
    assert set(parsed.entries) == {"A"}
    assert "the rest is not" in parsed.remarks[-1][1]


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    found = parse_env(data)
    assert len(found.entries) <= data.count(b"\n") + data.count(b"\r") + 1
    assert all(name == entry.name for name, entry in found.entries.items())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), max_size=60))
def test_a_value_in_double_quotes_is_kept_exactly(value: str) -> None:
    escaped = value.replace("\\", r"\\").replace('"', r"\"")
    assert parse_env(f'A="{escaped}"'.encode()).entries["A"].text == value
