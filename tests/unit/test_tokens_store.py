# SPDX-License-Identifier: Apache-2.0
"""Tokens: shown once, kept as hashes, revoked at once."""

import errno
import json
import stat
import threading
from pathlib import Path

import pytest

from edgepaas.cli import main
from edgepaas.errors import EXIT_DONE, EXIT_FAILED
from edgepaas.files.paths import Paths
from edgepaas.web.access.tokens import TokenProblem, TokenStore


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "state" / "tokens.json")


def test_a_token_is_found_by_its_secret_and_by_nothing_else(store: TokenStore) -> None:
    """Neither a prefix, nor the id, nor the digest opens the door."""
    token, secret = store.create("device 7", read_only=False)
    assert store.find(secret) == token
    for wrong in ("", secret[:-1], secret + "x", token.id, token.digest, "\udcff", "x" * 100_000):
        assert store.find(wrong) is None


def test_a_name_that_somebody_wrote_into_the_file_fits_into_rows(
    store: TokenStore, tmp_path: Path
) -> None:
    """Every write says who it was: a name that no row can hold would refuse all of them."""
    _, secret = store.create("a", read_only=False)
    path = tmp_path / "state" / "tokens.json"
    odd = json.dumps("x\0\ud800\n\u202e" + "y" * 300)
    path.write_text(path.read_text().replace('"name": "a"', f'"name": {odd}'))
    found = store.find(secret)
    assert found is not None
    assert found.name == "x????" + "y" * 95


def test_the_file_holds_no_secret_and_is_the_owners_alone(
    store: TokenStore, tmp_path: Path
) -> None:
    """Who reads the file still holds no token."""
    _, secret = store.create("a", read_only=True)
    path = tmp_path / "state" / "tokens.json"
    assert secret not in path.read_text()
    assert secret.removeprefix("edgepaas_") not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_differ_and_hold_256_bits(store: TokenStore) -> None:
    """32 bytes are 43 characters of base64url."""
    secrets = {store.create(str(number), read_only=False)[1] for number in range(20)}
    assert len(secrets) == 20
    assert {len(secret) for secret in secrets} == {len("edgepaas_") + 43}


def test_a_change_by_another_process_is_seen_at_once(store: TokenStore, tmp_path: Path) -> None:
    """The command line creates and revokes while the service runs."""
    service = TokenStore(tmp_path / "state" / "tokens.json")
    assert service.current() == ()
    token, secret = store.create("a", read_only=False)
    assert service.find(secret) == token
    store.revoke("a")
    assert service.find(secret) is None


def test_a_name_is_given_once(store: TokenStore) -> None:
    """Or revoking by name would be a guess."""
    store.create("a", read_only=False)
    with pytest.raises(TokenProblem, match="already"):
        store.create("a", read_only=True)


@pytest.mark.parametrize("name", ["", " ", " a", "a\n", "a\0b", "\udcff", "x" * 101, "\x1b[31m"])
def test_a_name_that_no_table_can_show_is_refused(store: TokenStore, name: str) -> None:
    """A terminal escape in a list of tokens is an attack."""
    with pytest.raises(TokenProblem, match="cannot name a token"):
        store.create(name, read_only=False)


def test_a_token_is_revoked_by_name_or_id_and_only_once(store: TokenStore) -> None:
    """What is not there is said, with what is."""
    first, _ = store.create("a", read_only=False)
    store.create("b", read_only=False)
    assert store.revoke(first.id) == first
    with pytest.raises(TokenProblem, match="there are: b"):
        store.revoke("a")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"{",
        b"[]",
        b"null",
        b'{"tokens": null}',
        b'{"tokens": [{"id": 1}]}',
        b'{"tokens": [1]}',
        b'{"tokens": [{"id":"","name":"","digest":"\xc3\xa9","read_only":false,"created_at":""}]}',
        b'{"tokens": [{"id":"a","name":"a","digest":"x","read_only":"no","created_at":""}]}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_opens_no_door_and_is_not_overwritten(
    store: TokenStore, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The service refuses everybody and says why; the commands refuse to touch it."""
    path = tmp_path / "state" / "tokens.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert store.find("anything") is None
    assert "no token is accepted" in caplog.text
    with pytest.raises(TokenProblem, match="move it away"):
        store.create("a", read_only=False)
    assert path.read_bytes() == content


def test_a_file_that_is_mounted_from_elsewhere_is_left_and_the_way_out_is_named(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cluster mounts a Secret's file: a mount point cannot be renamed over."""
    store.create("first", read_only=False)

    def replace(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(TokenProblem, match=r"tokens\.json.*mounted.*Secret edgepaas-tokens"):
        store.create("second", read_only=False)
    monkeypatch.undo()
    assert [token.name for token in store.read()] == ["first"]
    assert not list((tmp_path / "state").glob("*.tmp"))


def test_tokens_created_at_once_are_all_kept(tmp_path: Path) -> None:
    """The file is locked while it is changed."""
    path = tmp_path / "tokens.json"

    def create(name: str) -> None:
        TokenStore(path).create(name, read_only=False)

    threads = [threading.Thread(target=create, args=(f"t{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {token.name for token in TokenStore(path).read()} == {f"t{n}" for n in range(12)}


def test_create_prints_the_secret_alone_on_standard_output(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """``edgepaas token create x > file`` leaves the token in the file."""
    assert main(["token", "create", "laptop"]) == EXIT_DONE
    printed = capsys.readouterr()
    secret = printed.out.strip()
    assert "only time" in printed.err
    found = TokenStore(paths.tokens).find(secret)
    assert found is not None
    assert (found.name, found.read_only) == ("laptop", False)


def test_list_shows_no_secret(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Name, id, rights and age, as a table and as JSON."""
    assert main(["token", "list"]) == EXIT_DONE
    assert "there are no tokens" in capsys.readouterr().out
    assert main(["token", "create", "probe", "--read-only", "--json"]) == EXIT_DONE
    secret = json.loads(capsys.readouterr().out)["token"]
    assert main(["token", "list"]) == EXIT_DONE
    assert main(["token", "list", "--json"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "probe" in out
    assert '"read_only": true' in out
    assert secret not in out
    assert "digest" not in out


def test_revoke_says_what_it_did_and_fails_on_what_is_not_there(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, one line, no traceback."""
    main(["token", "create", "laptop"])
    assert main(["token", "revoke", "laptop"]) == EXIT_DONE
    assert main(["token", "revoke", "laptop"]) == EXIT_FAILED
    assert "there is no token laptop" in capsys.readouterr().err
