# SPDX-License-Identifier: Apache-2.0
"""Whether a certificate on the way to PostgreSQL ends soon: the server's, the CA's, the box's own.

The box shakes hands for this alone, so that it is known whichever database serves. What does not
answer is reported by others; what was seen last counts meanwhile.
"""

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.health.checks import CheckFailed
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import split_url

if TYPE_CHECKING:
    from edgepaas.settings import Settings
    from edgepaas.settings.urls import Address

#: Days before its end from which on a certificate is reported.
DAYS = 30
_DAY = 86400.0
#: PostgreSQL manual, 55.7 "Message Formats", SSLRequest.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
#: Tags of DER (X.690) that come on the way to a certificate's validity (RFC 5280, 4.1).
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17


class CertificateWatch:
    """The check: a line for a person, or CheckFailed naming what ends soon and what to do."""

    def __init__(
        self,
        settings: "Settings",
        url: str,
        *,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """*url*: of the PostgreSQL that rows go to."""
        self._address = split_url(url)
        self._policy = TLSPolicy.of(settings, self._address)
        self._timeout = timeout
        self._clock = clock
        self._seen: dict[str, float] = {}

    @property
    def needed(self) -> bool:
        """Whether there is a certificate to look at."""
        return self._policy.wanted and not self._address.unix_socket

    def __call__(self) -> str:
        """Look, and return when the first one ends; raises CheckFailed."""
        for host in self._address.hosts():
            place = f"PostgreSQL's certificate on {host.host}"
            if (end := self._of_server(host)) is not None:
                self._seen[place] = end
        found = {**self._seen, **dict(self._of_files())}
        now = self._clock()
        soon = sorted((end, what) for what, end in found.items() if end - now < DAYS * _DAY)
        if soon:
            said = "; ".join(f"{what} {_ending(end, now)}" for end, what in soon)
            raise CheckFailed(
                f"{said}: renew it before then, or PostgreSQL cannot be used and SQLite serves",
                ready=True,
            )
        if not found:
            return "no certificate was seen yet"
        end, what = min((end, what) for what, end in found.items())
        return f"{what} {_ending(end, now)}"

    def _of_server(self, host: "Address") -> float | None:
        """Return when the certificate that *host* shows ends; None where it shows none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # It is looked at, not trusted: an expired one has to be seen.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        where = (host.params.get("hostaddr") or host.host, host.port)
        try:
            with socket.create_connection(where, timeout=self._timeout) as plain:
                plain.sendall(_SSL_REQUEST)
                if plain.recv(1) != b"S":
                    return None
                with context.wrap_socket(plain, server_hostname=host.host) as secured:
                    shown = secured.getpeercert(binary_form=True)
            return None if shown is None else not_after(shown)
        except (OSError, ValueError):
            return None

    def _of_files(self) -> Iterator[tuple[str, float]]:
        for what, name in (
            ("the CA certificate (DB_SSLROOTCERT)", self._policy.root_certificate),
            ("the client certificate (sslcert)", self._policy.client_certificate),
        ):
            ends = list(_ends_in(Path(name))) if name else []
            if ends:
                # Of a bundle that is being renewed the last one counts.
                yield f"{what} {name}", max(ends)


def not_after(certificate: bytes) -> float:
    """Return the end of an X.509 certificate in DER, in seconds since 1970; raises ValueError."""
    try:
        _, fields, _ = _element(certificate, 0)
        _, body, _ = _element(fields, 0)
        tag, _, at = _element(body, 0)
        # version (where it is said), serialNumber, signature, issuer, validity
        for _ in range(3 if tag == _VERSION else 2):
            _, _, at = _element(body, at)
        tag, validity, _ = _element(body, at)
        _, _, at = _element(validity, 0)
        kind, moment, _ = _element(validity, at)
    except (IndexError, struct.error) as error:
        raise ValueError("it is no certificate") from error
    if tag != _SEQUENCE:
        raise ValueError("it is no certificate")
    text = moment.decode("ascii")
    if kind == _UTC_TIME:  # RFC 5280, 4.1.2.5.1: 50 to 99 are of the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Return tag, content and end of the element at *at*."""
    tag, length = data[at], data[at + 1]
    start = at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    if start + length > len(data):
        raise IndexError("cut")
    return tag, data[start : start + length], start + length


def _ends_in(file: Path) -> Iterator[float]:
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return  # whoever connects says that it cannot be read
    for part in text.split("-----BEGIN CERTIFICATE-----")[1:]:
        body, end, _ = part.partition("-----END CERTIFICATE-----")
        if end:
            try:
                yield not_after(
                    ssl.PEM_cert_to_DER_cert(
                        f"-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----\n"
                    )
                )
            except ValueError:
                continue


def _ending(end: float, now: float) -> str:
    date = datetime.fromtimestamp(end, UTC).date().isoformat()
    days = int((end - now) // _DAY)
    if end <= now:
        return f"expired on {date}"
    return f"ends on {date}, in {days} day{'' if days == 1 else 's'}"
