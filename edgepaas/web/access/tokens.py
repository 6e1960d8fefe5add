# SPDX-License-Identifier: Apache-2.0
"""API tokens: made here, shown once, kept only as hashes in ``state/tokens.json``."""

import errno
import hashlib
import hmac
import logging
import secrets
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.locks import held
from edgepaas.files.records import NotThisRecord, RecordType

#: Known to secret scanners and to people who find one in a file.
PREFIX = "edgepaas_"
LONGEST_NAME = 100
#: No one has more; a file that holds more was not written by us.
MOST_TOKENS = 1000
#: Longer than any token, and short enough to hash for every client.
LONGEST_TOKEN = 256

#: ``state/tokens.json``. One that is not understood stays where it is and opens nothing: it
#: may be mounted from elsewhere, and in its absence a token would be made beside it.
RECORD = RecordType(
    "tokens",
    2,
    {
        "tokens": shapes.list_of(
            shapes.object_of(
                {
                    "id": shapes.text,
                    "name": shapes.text,
                    "digest": shapes.text,
                    "read_only": shapes.flag,
                    "created_at": shapes.text,
                }
            )
        )
    },
    {1: lambda old: {"tokens": old["tokens"]}},
)

logger = logging.getLogger("edgepaas.web.tokens")


class TokenProblem(EdgePaaSError):
    """A token cannot be created, found or stored; names it and the way out."""


@dataclass(frozen=True)
class Token:
    """What is kept of a token; *digest* is the SHA-256 of the whole token, in hexadecimal.

    A token is 256 bits from the kernel's generator: nobody guesses it, so a slow
    password hash would only slow the box down (NIST SP 800-63B, 5.1.1.2, asks for
    one where a person chose the secret).
    """

    id: str
    name: str
    digest: str
    read_only: bool
    created_at: str

    def as_dict(self) -> dict[str, object]:
        """Return what may be shown: everything but the digest."""
        return {
            "id": self.id,
            "name": self.name,
            "read_only": self.read_only,
            "created_at": self.created_at,
        }


#: Stands for the token of this box's own commands (edgepaas.files.local_token).
LOCAL_TOKEN = Token("local", "local", "", read_only=False, created_at="")


class TokenStore:
    """The tokens of one box. Reading follows changes of the file; writing is locked and atomic."""

    def __init__(self, path: Path, *, local: str = "") -> None:
        """*local*: the token of this box's own commands, which no file of tokens holds."""
        self._path = path
        self._local = _digest(local) if local else ""
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def find(self, presented: str) -> Token | None:
        """Return the token that *presented* is, or None, in constant time."""
        if len(presented) > LONGEST_TOKEN:
            return None
        digest = _digest(presented)
        found = None
        if self._local and hmac.compare_digest(self._local, digest):
            found = LOCAL_TOKEN
        for token in self.current():
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def current(self) -> tuple[Token, ...]:
        """Return the tokens as the file holds them now; a file that cannot be read holds none."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            identity = None
        except OSError as error:
            logger.error("%s cannot be read (%s): no token is accepted", self._path, error)
            return ()
        else:
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if identity != self._seen:
                self._seen = identity
                self._tokens = () if identity is None else self._read_or_none()
            return self._tokens

    def read(self) -> tuple[Token, ...]:
        """Return the tokens that the file holds; TokenProblem when it is damaged."""
        return read_tokens(self._path)

    def create(self, name: str, *, read_only: bool) -> tuple[Token, str]:
        """Make a token called *name*; return it and the secret, which exists nowhere else.

        Raises TokenProblem for a name that is taken or that no table could show.
        """
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
            raise TokenProblem(
                f"{name!r} cannot name a token: 1 to {LONGEST_NAME} visible characters"
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._writing() as tokens:
            if any(token.name == name for token in tokens):
                raise TokenProblem(
                    f"there is a token called {name} already; 'edgepaas token revoke {name}' "
                    "takes it back, or choose another name"
                )
            if len(tokens) >= MOST_TOKENS:
                raise TokenProblem(f"there are {MOST_TOKENS} tokens already: revoke some")
            token = Token(
                id=secrets.token_hex(6),
                name=name,
                digest=_digest(secret),
                read_only=read_only,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            self._store([*tokens, token])
        return token, secret

    def revoke(self, name_or_id: str) -> Token:
        """Forget a token by its name or its id; TokenProblem when there is none."""
        with self._writing() as tokens:
            chosen = [token for token in tokens if name_or_id in (token.name, token.id)]
            if not chosen:
                known = ", ".join(token.name for token in tokens) or "none"
                raise TokenProblem(f"there is no token {name_or_id}; there are: {known}")
            self._store([token for token in tokens if token != chosen[0]])
        return chosen[0]

    def _writing(self) -> "_Writing":
        return _Writing(self._path)

    def _store(self, tokens: Sequence[Token]) -> None:
        try:
            RECORD.write(self._path, {"tokens": [asdict(token) for token in tokens]})
        except OSError as error:
            way_out = ""
            if error.errno == errno.EBUSY:  # rename(2): the name is a mount point
                way_out = (
                    "; it is mounted here from elsewhere: make the token on another box and "
                    "change what is mounted (in Kubernetes the Secret edgepaas-tokens)"
                )
            problem = f"{self._path} cannot be written: {error.strerror}{way_out}"
            raise TokenProblem(problem) from error

    def _read_or_none(self) -> tuple[Token, ...]:
        try:
            return read_tokens(self._path)
        except TokenProblem as problem:
            logger.error("%s; no token is accepted until it is mended", problem)
            return ()


class _Writing:
    """Holds the file's lock for a change and hands out what the file holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = held(path.with_name(path.name + ".lock"))

    def __enter__(self) -> tuple[Token, ...]:
        self._held.__enter__()
        try:
            return read_tokens(self._path)
        except BaseException:
            self._held.__exit__(None, None, None)
            raise

    def __exit__(self, *exception: Any) -> None:
        self._held.__exit__(*exception)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Return the tokens in *path*, none when it is absent; TokenProblem when it is damaged."""
    try:
        found = RECORD.read(path)
        entries = [] if found is None else found["tokens"]
        tokens = tuple(Token(**{**entry, "name": _fit(entry["name"])}) for entry in entries)
        if not all(token.digest.isascii() for token in tokens):
            raise NotThisRecord("a token's digest is hexadecimal")
    except (OSError, NotThisRecord) as error:
        raise TokenProblem(f"{path} cannot be read ({error}): move it away to start anew") from None
    return tokens


def _fit(name: str) -> str:
    """Return *name* as rows may hold it: a file that people write may hold any text."""
    return "".join(one if one.isprintable() else "?" for one in name)[:LONGEST_NAME]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
