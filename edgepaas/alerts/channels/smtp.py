# SPDX-License-Identifier: Apache-2.0
"""Sending a notification by e-mail (RFC 5321): verified TLS, login, a deadline that holds."""

import base64
import re
import smtplib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.mail_message import compose_mail
from edgepaas.alerts.channels.mail_settings import MailSettings
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.http_client import failure_words, open_connection
from edgepaas.logs.foreign import foreign_text
from edgepaas.timing.deadline import OutOfTime, Scope, within

#: The extended codes of RFC 3463 by which a server that read the message refuses its sender or
#: itself: a policy, an address, the system (but its size limit), the network.
_OF_THE_CHANNEL = re.compile(r"\A5\.(?:1|4|7|3(?!\.4\b))\.")


@dataclass
class _Progress:
    """How far an attempt has come, for the thread that waits for it."""

    connection: smtplib.SMTP | None = None
    #: The server has the text, or part of it: whether it takes it is not known any more.
    handed_over: bool = False
    #: The server has read the text and answered.
    judged: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    def abort(self) -> None:
        """End the attempt's thread: its socket is shut down under it."""
        if self.connection is not None and self.connection.sock is not None:
            self.connection.sock.shutdown(socket.SHUT_RDWR)


def send(config: MailSettings, notification: Notification, box: BoxIdentity) -> Answer:
    """Send *notification* and return what the server answered; never raises for the network."""
    try:
        message = compose_mail(config, notification, box)
    except ValueError as error:
        words = f"ALERT_EMAIL_FROM or ALERT_EMAIL_TO is no address: {error}"
        return Answer("later", words, down=True)
    progress = _Progress()
    try:
        return within(
            config.timeout,
            lambda scope: _deliver(config, message, progress, scope),
            abort=progress.abort,
            name="alerts-smtp",
        )
    except OutOfTime:
        late = f"no answer within {config.timeout:g} s"
        return Answer("later", late, reached=progress.handed_over, down=True)
    except smtplib.SMTPException as error:
        return _judge(error, progress, config)
    except (OSError, ValueError) as error:
        down = progress.connection is None or isinstance(error, ssl.SSLError)
        words = f"cannot be reached: {failure_words(error)}"
        return Answer("later", words, progress.handed_over, down=down)


def _deliver(config: MailSettings, message: bytes, progress: _Progress, scope: Scope) -> Answer:
    connection = _connect(config, progress, scope)
    try:
        if config.username:
            connection.login(config.username, config.password)
        connection.ehlo_or_helo_if_needed()
        _expect(connection.mail(config.sender), 250, smtplib.SMTPSenderRefused, config.sender)
        refused: dict[str, tuple[int, bytes]] = {}
        for to in config.to:
            code, words = connection.rcpt(to)
            if code not in (250, 251):
                refused[to] = (code, words)
        if len(refused) == len(config.to):
            raise smtplib.SMTPRecipientsRefused(refused)
        progress.handed_over = True
        code, words = connection.data(message)
        progress.judged = True
        if code != 250:
            raise smtplib.SMTPDataError(code, words)
        left = "; ".join(f"not to {to}: {_words(*why, config)}" for to, why in refused.items())
        said = _words(code, words, config)
        return Answer("taken", said + (f" ({left})" if left else ""), reached=True)
    finally:
        connection.close()


class _Connection(smtplib.SMTP):
    """A connection that tries every address of the host, within the deadline of *scope*."""

    def __init__(self, config: MailSettings, scope: Scope, context: ssl.SSLContext) -> None:
        super().__init__(timeout=config.timeout)
        self._scope, self._trust, self._wrapped = scope, context, config.security == "tls"
        # What its own starttls() verifies the certificate for.
        self._host = config.host

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = open_connection(host, port, self._scope)
        return self._trust.wrap_socket(sock, server_hostname=host) if self._wrapped else sock


def _connect(config: MailSettings, progress: _Progress, scope: Scope) -> smtplib.SMTP:
    context = ssl.create_default_context()
    connection = _Connection(config, scope, context)
    code, words = connection.connect(config.host, config.port)
    progress.connection = connection
    connection.local_hostname = config.helo or _own_name(connection)
    if code != 220:
        raise smtplib.SMTPConnectError(code, words)
    if config.security == "starttls":
        connection.ehlo_or_helo_if_needed()
        connection.starttls(context=context)
        connection.ehlo()
    return connection


def _own_name(connection: smtplib.SMTP) -> str:
    """Return the name to greet with: the host's where it has a domain, else an address literal.

    RFC 5321, 4.1.4; a name without a dot is refused by many servers. The name service is not
    asked for one: it may take the whole time.
    """
    name = socket.gethostname().rstrip(".")
    if re.fullmatch(r"(?!-)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z][A-Za-z0-9-]*", name):
        return name
    if connection.sock is None:
        return "[127.0.0.1]"
    family, address = connection.sock.family, connection.sock.getsockname()[0]
    literal = str(address).partition("%")[0].removeprefix("::ffff:")
    return f"[IPv6:{literal}]" if family == socket.AF_INET6 and ":" in literal else f"[{literal}]"


def _expect(
    answer: tuple[int, bytes], code: int, kind: Callable[[int, bytes, str], Exception], about: str
) -> None:
    if answer[0] != code:
        raise kind(answer[0], answer[1], about)


def _judge(error: smtplib.SMTPException, progress: _Progress, config: MailSettings) -> Answer:
    """Return what an SMTP failure means.

    Before the server has read the message, nothing can be wrong with that: a greeting, a login,
    a sender or a recipient that it refuses is the channel's fault.
    """
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        words = "; ".join(f"{to}: {_words(*why, config)}" for to, why in error.recipients.items())
        good = all(code >= 500 for code, _ in error.recipients.values())
        return Answer("later", words, down=good)
    if isinstance(error, smtplib.SMTPAuthenticationError):
        said = _words(error.smtp_code, error.smtp_error, config)
        return Answer("later", f"refuses the login: {said}", down=True)
    if isinstance(error, smtplib.SMTPResponseException):
        said = _words(error.smtp_code, error.smtp_error, config)
        first = isinstance(error, smtplib.SMTPConnectError | smtplib.SMTPHeloError)
        of_channel = bool(_OF_THE_CHANNEL.match(_plain(error.smtp_error)))
        if progress.judged and error.smtp_code >= 500 and not of_channel:
            return Answer("refused", said)
        return Answer("later", said, down=first or error.smtp_code >= 500)
    # Before the greeting nothing answers there, whichever limit of time was the first to pass.
    down = isinstance(error, smtplib.SMTPNotSupportedError) or progress.connection is None
    words = foreign_text(str(error), _secrets(config)) or type(error).__name__
    return Answer("later", words, reached=progress.handed_over, down=down)


def _words(code: int, said: bytes | str, config: MailSettings) -> str:
    return f"it answered {code} {foreign_text(_plain(said), _secrets(config))}"


def _plain(said: bytes | str) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def _secrets(config: MailSettings) -> list[str]:
    """Return the password as it is, and as a login sends it."""
    if not config.password:
        return []
    plain = f"\0{config.username}\0{config.password}".encode()
    login = (plain, config.password.encode())
    return [config.password, *(base64.b64encode(one).decode() for one in login)]
