# SPDX-License-Identifier: Apache-2.0
"""Who is to be told, on another host: a webhook and a mail server at the far end of a wire."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import trustme

from tests.support.receivers import MailBox, Receiver, mail_server
from tests.system.appliance import Appliance
from tests.system.network import HUB, Wire

NAME = "hub.example"
LOGIN = ("box", "a secret of the box")


@dataclass
class Outside:
    """The receivers; *told* is what was accepted so far, by its key."""

    wire: Wire
    hook: Receiver
    mails: MailBox
    authority: bytes
    #: So many requests the webhook accepts before it begins to fail; None: all.
    accepts: int | None = None

    def configure(self, box: Appliance, **settings: str) -> None:
        """Have *box* trust the receivers' authority, and tell them; does not restart."""
        box.write("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 box\n{HUB} {NAME}\n")
        box.write("/usr/local/share/ca-certificates/hub.crt", self.authority)
        box.exec("update-ca-certificates")
        box.configure(**{
            "ALERT_WEBHOOK_URL": f"https://{NAME}:{self.hook.port}/hook", "ALERT_TIMEOUT": "2",
            "ALERT_EMAIL_TO": f"operator@{NAME}", "SMTP__HOST": NAME,
            "SMTP__PORT": str(self.mails.port), "SMTP__USERNAME": LOGIN[0],
            "SMTP__PASSWORD": LOGIN[1], **settings,
        })  # fmt: skip

    def forget(self, *statuses: int) -> None:
        """Forget what has come; the webhook answers with *statuses* from now on, the last stays."""
        self.hook.replies = list(statuses) or [200]
        self.accepts = len(statuses) - 1 if len(statuses) > 1 else None
        self.hook.requests.clear()
        self.mails.mails.clear()

    def keys(self) -> list[str]:
        """Return the keys of what was accepted, in the order in which it came by each channel."""
        by_hook = [request.key for request in self.hook.requests[: self.accepts]]
        return by_hook + [str(mail["X-EdgePaaS-Key"]) for mail in self.mails.mails]

    def fingerprints(self, what: str) -> list[str]:
        """Return the fingerprints of what came by the webhook as *what*: raised, resolved …"""
        documents = [request.document for request in self.hook.requests[: self.accepts]]
        return [entry["fingerprint"] for entry in documents if entry["what"] == what]

    def wait_for(self, fingerprint: str, what: str, limit: float = 90.0) -> None:
        """Wait until the webhook was told of *fingerprint* that it is *what*."""
        deadline = time.monotonic() + limit
        while fingerprint not in self.fingerprints(what):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not told within {limit:g} s: {fingerprint} {what}")
            time.sleep(0.2)

    def wait_for_texts(self, *parts: str, limit: float = 120.0) -> None:
        """Wait until each of *parts* was told, by whichever channel."""
        deadline = time.monotonic() + limit
        while missing := [p for p in parts if not any(p in text for text in self.texts())]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not told within {limit:g} s: {', '.join(missing)}")
            time.sleep(0.2)

    def texts(self) -> list[str]:
        """Return title and text of everything that was accepted."""
        documents = [request.document for request in self.hook.requests[: self.accepts]]
        mails = [f"{mail['Subject']}\n{mail.get_content()}" for mail in self.mails.mails]  # type: ignore[attr-defined]
        return [f"{entry['title']}\n{entry['text']}" for entry in documents] + mails


@contextlib.contextmanager
def outside(wire: Wire) -> Iterator[Outside]:
    """Receivers at the far end of *wire*: HTTPS, and SMTP with STARTTLS and a login."""
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    with contextlib.ExitStack() as undo:
        hook = wire.hub.call(lambda: Receiver(certificate=certificate, host=HUB))
        undo.callback(hook.stop)
        server = mail_server(certificate=certificate, starttls=True, login=LOGIN, host=HUB)
        mails = wire.hub.call(server.__enter__)
        undo.push(server.__exit__)
        yield Outside(wire, hook, mails, authority.cert_pem.bytes())


def titles(texts: list[str]) -> list[str]:
    """Return the first line of each, without the box's name."""
    return [re.sub(r"^(\[\w+\]) \S+: ", r"\1 ", text.split("\n", 1)[0]) for text in texts]
