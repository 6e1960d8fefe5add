# SPDX-License-Identifier: Apache-2.0
"""How far the way to PostgreSQL is encrypted and checked, decided before it is gone.

The words are libpq's (PostgreSQL manual, 34.19 "SSL Support"). Off the box nothing less
than ``verify-full`` is the default: ``require`` encrypts the link to any server that answers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.settings.urls import Address

if TYPE_CHECKING:
    import ssl

    from edgepaas.settings import Settings

#: Weakest first. libpq's "allow" begins without TLS and never ends better than "prefer".
MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
#: libpq's word for the certificates that the operating system trusts.
SYSTEM_STORE = "system"


@dataclass(frozen=True)
class TLSPolicy:
    """What is demanded of the link; ``warning`` is empty unless it is weaker than it should be."""

    mode: str
    root_certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""
    warning: str = ""

    @classmethod
    def of(cls, settings: "Settings", address: Address) -> "TLSPolicy":
        """Return the policy for *address*: DB_SSLMODE, else its ``?sslmode=``, else the default.

        The default is ``verify-full`` off the box, ``disable`` on loopback and on a Unix
        socket. A word that is none takes the default and is warned about.
        """
        local = address.on_this_box
        default = "disable" if local else "verify-full"
        word = settings.text("DB_SSLMODE")
        source = "DB_SSLMODE"
        if word in ("", "auto"):
            word = address.params.get("sslmode", "").strip().lower()
            source = "sslmode in DATABASE_URL"
        mode = {"allow": "prefer", "": default}.get(word, word)
        warning = ""
        if mode not in MODES:
            warning = f"{source} {word!r} is none of {', '.join(MODES)}; {default} is used"
            mode = default
        root = settings.text("DB_SSLROOTCERT") or address.params.get("sslrootcert", "")
        if mode == "require" and root and root != SYSTEM_STORE:
            mode = "verify-ca"  # libpq does so, and an operator who names a CA means it
        if not local and mode != "verify-full":
            warning = (
                f"{source} is {mode}: the link to {', '.join(h.host for h in address.hosts())} "
                f"{_WEAKNESS[mode]}; verify-full would protect it"
            )
        return cls(
            mode=mode,
            root_certificate="" if root == SYSTEM_STORE else root,
            client_certificate=address.params.get("sslcert", ""),
            client_key=address.params.get("sslkey", ""),
            warning=warning,
        )

    @property
    def wanted(self) -> bool:
        """Whether TLS is asked for at all."""
        return self.mode != "disable"

    @property
    def required(self) -> bool:
        """Whether a server without TLS is refused."""
        return self.mode not in ("disable", "prefer")

    def context(self) -> "ssl.SSLContext | None":
        """Return the context to wrap the socket with, None without TLS.

        Raises ConnectFailure (tls) naming the file when a certificate cannot be read.
        """
        if not self.wanted:
            return None
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.root_certificate or None)
        except OSError as error:  # ssl.SSLError is one
            raise ConnectFailure(
                Failure.TLS,
                f"the CA certificates in {self.root_certificate} (DB_SSLROOTCERT) "
                f"cannot be read: {error.strerror or error}",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.mode != "verify-full":
            context.check_hostname = False
        if self.mode in ("prefer", "require"):
            context.verify_mode = ssl.CERT_NONE
        if self.client_certificate:
            try:
                context.load_cert_chain(self.client_certificate, self.client_key or None)
            except OSError as error:
                raise ConnectFailure(
                    Failure.TLS,
                    f"the client certificate {self.client_certificate} (sslcert, sslkey in "
                    f"DATABASE_URL) cannot be read: {error.strerror or error}",
                ) from error
        return context


_WEAKNESS = {
    "disable": "is not encrypted",
    "prefer": "may not be encrypted, and the server is not checked",
    "require": "is encrypted, but to any server that answers",
    "verify-ca": "is encrypted, but to any holder of a certificate of that CA",
}
