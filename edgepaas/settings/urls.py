# SPDX-License-Identifier: Apache-2.0
"""Database addresses: the URL forms that people write, read into one shape and masked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode

from edgepaas.errors import ConfigurationError

MASK = "****"
POSTGRESQL_PORT = 5432
ALLOWED = "postgresql://user@host:5432/database or sqlite:////absolute/path"
#: Hosts that one address may name; a cluster has three or five.
MOST_HOSTS = 16

_SCHEME = re.compile(r"(?:jdbc:)?([A-Za-z][A-Za-z0-9]*)(?:\+[A-Za-z0-9_]+)?:(.*)\Z", re.DOTALL)
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UNFIT_IN_HOST = re.compile(r"[\s/\\<>\"'@#?%\x00-\x1f\x7f]")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\Z")
#: Bytes that a part may have: identifiers of PostgreSQL end at 63, tokens used as passwords
#: at some 2 KiB. Encoded and together they still fit into an environment variable.
_LONGEST_PART = {"user": 256, "database": 256, "host": 1024, "password": 4096}
_LONGEST_PATH = 4095
_SECRET_PARAMETERS = frozenset({"password", "sslpassword"})
#: What ``target_session_attrs`` may ask of the server (PostgreSQL manual, 34.1.2 "Parameter Key
#: Words"). A box writes, so those that may end at a standby are refused.
SESSION_ATTRIBUTES = ("any", "read-write", "primary")


class AddressError(ConfigurationError):
    """The text is no database address; the message never repeats what may be a password."""


@dataclass(frozen=True)
class Address:
    """Where a database is: a PostgreSQL server's, or an SQLite file's.

    *host* is a name, an IP address without brackets, or a folder (``/run/postgresql``)
    that holds a Unix socket. For ``sqlite`` only *database* counts: the file's path as
    it was written, relative or absolute. *params* are the remaining ``?name=value``
    pairs, such as libpq's ``sslmode``. *further* are the hosts and ports that come after
    the first one; :meth:`hosts` gives all of them.
    """

    scheme: str
    host: str = ""
    port: int = POSTGRESQL_PORT
    database: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    further: tuple[tuple[str, int], ...] = ()

    def hosts(self) -> "tuple[Address, ...]":
        """Return each host as an address of its own, in the order in which they are tried."""
        places = ((self.host, self.port), *self.further)
        params = {name: value for name, value in self.params.items() if name != "hostaddr"}
        known = self.params.get("hostaddr", "").split(",")
        return tuple(
            replace(
                self,
                host=host,
                port=port,
                further=(),
                params={**params, "hostaddr": numeric} if numeric else params,
            )
            for (host, port), numeric in zip(
                places, known + [""] * (len(places) - len(known)), strict=True
            )
        )

    @property
    def must_be_writable(self) -> bool:
        """Whether a server that takes no writes is passed over for the next one.

        Unless ``target_session_attrs=any`` says otherwise it is so where several hosts are
        named: a box that writes wants the primary among them.
        """
        default = "read-write" if self.further else "any"
        return self.params.get("target_session_attrs", default) != "any"

    @property
    def unix_socket(self) -> str:
        """The socket's path, e.g. ``/run/postgresql/.s.PGSQL.5432``; empty for TCP."""
        return f"{self.host.rstrip('/')}/.s.PGSQL.{self.port}" if self.host[:1] == "/" else ""

    @property
    def on_this_box(self) -> bool:
        """Whether the database is on this box: a file, a Unix socket, loopback."""
        if self.scheme == "sqlite":
            return True
        numeric = [text for text in self.params.get("hostaddr", "").split(",") if text]
        return all(map(_is_local, [self.host, *(host for host, _ in self.further), *numeric]))

    def url(self) -> str:
        """Return the canonical URL, password included: ``postgresql://…`` or ``sqlite:///…``."""
        return self._url(quote(self.password, safe=""), self.params)

    def masked(self) -> str:
        """Return the URL with every password as ``****``, for logs and for people."""
        params = {k: MASK if k in _SECRET_PARAMETERS else v for k, v in self.params.items()}
        return self._url(MASK if self.password else "", params)

    def _url(self, password: str, params: Mapping[str, str]) -> str:
        if self.scheme == "sqlite":
            return f"sqlite:///{self.database}" + _query(params)
        user = quote(self.username, safe="") + (f":{password}" if password else "")
        at = f"{user}@" if user else ""
        database = quote(self.database, safe="")
        places = ((self.host, self.port), *self.further)
        if any(host[:1] == "/" for host, _ in places):
            hosts, ports = (",".join(map(str, part)) for part in zip(*places, strict=True))
            return f"postgresql://{at}/{database}" + _query(
                {"host": hosts, "port": ports, **params}
            )
        location = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in places
        )
        return f"postgresql://{at}{location}/{database}" + _query(params)


def split_url(text: str) -> Address:
    """Read a database URL; AddressError says what is wrong and what is allowed.

    Understood: ``postgres://``, ``postgresql://``, either with a ``+driver`` (dropped),
    libpq's parameters (``?sslmode=``, ``?host=/run/postgresql``, ``?user=``) and several
    hosts (``host1:5432,host2``, ``?target_session_attrs=``; PostgreSQL manual, 34.1.1
    "Connection Strings"), IPv6 in brackets, percent-encoding, and
    ``sqlite:`` with a path as SQLAlchemy writes it (three slashes: relative, four:
    absolute).
    """
    text = text.strip()
    match = _SCHEME.match(text)
    if match is None:
        raise AddressError(f"it is not a URL; allowed is {ALLOWED}")
    scheme, rest = match[1].lower(), match[2]
    if _UNFIT.search(text):
        raise AddressError("it holds a control character")
    if scheme in ("sqlite", "sqlite3"):
        return _split_sqlite(rest)
    if scheme not in ("postgres", "postgresql"):
        raise AddressError(f"{scheme}:// is not a database this box can use; allowed is {ALLOWED}")
    if not rest.startswith("//"):
        raise AddressError(f"'//' is missing after '{scheme}:'; allowed is {ALLOWED}")
    return _split_postgresql(rest[2:])


def _split_sqlite(rest: str) -> Address:
    path, _, query = rest.partition("?")
    if path.startswith("///"):
        path = path[3:]
    elif path.startswith("//"):
        raise AddressError(
            "an SQLite URL has three slashes before a relative path and four before an "
            "absolute one: sqlite:////var/lib/edgepaas/edgepaas.db"
        )
    if path in ("", ":memory:", "/"):
        raise AddressError("an SQLite database in memory would lose every row; name a file")
    if len(path.encode()) > _LONGEST_PATH:
        raise AddressError("its path is longer than a path can be")
    return Address(scheme="sqlite", database=path, params=_parameters(query))


def _split_postgresql(rest: str) -> Address:
    location, _, query = rest.partition("?")
    authority, _, database = location.partition("/")
    params = _parameters(query)
    userinfo, at, hostport = authority.rpartition("@")
    if not at and "@" in rest[len(authority) :]:
        raise AddressError(
            "its user or password holds a '/' or a '?' as it is; "
            "write '/' as %2F, '?' as %3F, '@' as %40, '%' as %25"
        )
    username, _, password = userinfo.partition(":")
    places = _places(hostport, params)
    _check_session_attributes(params)
    username = params.pop("user", "") or _decoded(username, "user")
    password = params.pop("password", "") or _decoded(password, "password")
    database = params.pop("dbname", "") or _decoded(database, "database") or username
    parts = {"user": username, "database": database, "password": password}
    parts["host"] = max((host for host, _ in places), key=len)
    for what, value in parts.items():
        if len(value.encode()) > _LONGEST_PART[what]:
            raise AddressError(f"its {what} is longer than {_LONGEST_PART[what]} bytes")
    return Address(
        scheme="postgresql",
        host=places[0][0],
        port=places[0][1],
        database=database,
        username=username,
        password=password,
        params=params,
        further=places[1:],
    )


def _places(hostport: str, params: dict[str, str]) -> tuple[tuple[str, int], ...]:
    """Return the hosts and ports of the authority *hostport* and of *params*, which lose them."""
    written = [_split_host(part) for part in hostport.split(",")]
    hosts, ports = [host for host, _ in written], [port for _, port in written]
    numeric = params["hostaddr"].split(",") if params.get("hostaddr") else []
    if params.get("host") or not hostport:
        hosts, ports = (params.pop("host", "") or ",".join(numeric)).split(","), ports[:1]
    params.pop("host", "")
    ports = params.pop("port", "").split(",") if params.get("port") else ports
    params.pop("port", "")
    if len(ports) == 1:
        ports *= len(hosts)  # one port is every host's
    if len(hosts) > MOST_HOSTS:
        raise AddressError(f"it names {len(hosts)} hosts; {MOST_HOSTS} are the most")
    if len(ports) != len(hosts) or (numeric and len(numeric) != len(hosts)):
        raise AddressError(
            f"it names {len(hosts)} hosts and {len(ports)} ports"
            + (f" and {len(numeric)} values in hostaddr" if numeric else "")
            + "; give one port for all of them, or as many as there are hosts"
        )
    if len(hosts) > 1 and "" in hosts:
        raise AddressError("one of the hosts between its commas is empty")
    for address in numeric:
        if address and not _is_numeric(address):
            raise AddressError(f"hostaddr {shortened(address)} is not a numeric address")
    return tuple(
        (checked_host(host or "localhost"), checked_port(port or str(POSTGRESQL_PORT)))
        for host, port in zip(hosts, ports, strict=True)
    )


def _check_session_attributes(params: Mapping[str, str]) -> None:
    wanted = params.get("target_session_attrs", "any")
    if wanted not in SESSION_ATTRIBUTES:
        raise AddressError(
            f"target_session_attrs={shortened(wanted)} may end at a server that takes no writes, "
            f"and a box writes; allowed is {', '.join(SESSION_ATTRIBUTES)}"
        )


def _is_local(host: str) -> bool:
    return host.startswith(("/", "127.")) or host.lower() in ("localhost", "::1")


def _is_numeric(text: str) -> bool:
    return bool(_IPV6.match(text) if ":" in text else re.fullmatch(r"\d+(?:\.\d+){3}", text))


def checked_host(host: str) -> str:
    """Return *host* (name, address, socket's folder) if it can be one, else AddressError."""
    if host.startswith("/"):
        return host
    name = host.partition("%")[0] if ":" in host else host  # fe80::1%eth0 names an interface
    if not name or _UNFIT_IN_HOST.search(name) or len(host) > 253:
        raise AddressError(f"the host {shortened(host)} is neither a name nor an address")
    if ":" in host and not _IPV6.match(host):
        raise AddressError(f"the host {shortened(host)} is not an IPv6 address")
    return host


def checked_port(port: str) -> int:
    """Return *port* as a number of 1 to 65535, else AddressError."""
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        # What stands here may be the tail of an unencoded password: it is not repeated.
        raise AddressError("its port is not a number from 1 to 65535")
    return int(port)


def shortened(text: str, limit: int = 60) -> str:
    """Return *text* quoted on one line, cut at *limit* characters."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


def _split_host(hostport: str) -> tuple[str, str]:
    if hostport.startswith("["):
        host, bracket, tail = hostport[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")) or not _IPV6.match(host):
            raise AddressError("what stands in brackets is not an IPv6 address")
        return host, tail[1:]
    if hostport.count(":") > 1:
        raise AddressError("an IPv6 address stands in brackets: postgresql://user@[::1]:5432/name")
    host, _, port = hostport.partition(":")
    return _decoded(host, "host"), port


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError:
        raise AddressError("its part after '?' cannot be read as name=value pairs") from None
    if sum(len((name + value).encode()) for name, value in pairs) > _LONGEST_PATH:
        raise AddressError("its part after '?' is too long")
    for name, value in pairs:
        if _UNFIT.search(name + value):
            raise AddressError("a value after '?' holds a control character")
    return dict(pairs)


def _decoded(text: str, what: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise AddressError(f"its {what} is not percent-encoded UTF-8") from None
    if _UNFIT.search(decoded):
        raise AddressError(f"its {what} holds a control character")
    return decoded


def _query(params: Mapping[str, str]) -> str:
    return f"?{urlencode(params, quote_via=quote, safe='/*')}" if params else ""
