# SPDX-License-Identifier: Apache-2.0
"""Sending a notification by e-mail (RFC 5321): verified TLS, login, a deadline that holds."""

import smtplib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.mail_settings import MailSettings
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity, text, title
from edgepaas.timing.deadline import OutOfTime, within


@dataclass
class _Progress:
    """How far an attempt has come, for the thread that waits for it."""

    connection: smtplib.SMTP | None = None
    #: The server has the text, or part of it: whether it takes it is not known any more.
    handed_over: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    def abort(self) -> None:
        """End the attempt's thread: its socket is shut down under it."""
        if self.connection is not None and self.connection.sock is not None:
            self.connection.sock.shutdown(socket.SHUT_RDWR)


def send(config: MailSettings, notification: Notification, box: BoxIdentity) -> Answer:
    """Send *notification* and return what the server answered; never raises for the network."""
    try:
        message = compose_mail(config, notification, box).as_bytes(policy=SMTP)
    except (ValueError, IndexError) as error:
        return Answer("refused", f"ALERT_EMAIL_FROM or ALERT_EMAIL_TO is no address: {error}")
    progress = _Progress()
    try:
        return within(
            config.timeout,
            lambda _: _deliver(config, message, progress),
            abort=progress.abort,
            name="alerts-smtp",
        )
    except OutOfTime:
        late = f"no answer within {config.timeout:g} s"
        return Answer("later", late, reached=progress.handed_over, down=True)
    except smtplib.SMTPException as error:
        return _judge(error, progress)
    except (OSError, ValueError) as error:
        down = progress.connection is None or isinstance(error, ssl.SSLError)
        return Answer("later", f"cannot be reached: {error}", progress.handed_over, down=down)


def compose_mail(
    config: MailSettings, notification: Notification, box: BoxIdentity
) -> EmailMessage:
    """Return the message; raises ValueError for an address that is none.

    Its Message-ID is made of the notification's key: a mail that was sent twice can be recognised.
    """
    message = EmailMessage()
    message["Subject"] = title(notification, box)
    message["From"] = _address(config.sender, f"EdgePaaS {box.name}")
    message["To"] = [_address(to) for to in config.to]
    message["Date"] = formatdate()
    domain = config.sender.rpartition("@")[2]
    message["Message-ID"] = f"<{notification.key}@{domain}>"
    message["X-EdgePaaS-Key"] = notification.key
    message["X-EdgePaaS-Severity"] = notification.severity
    # RFC 3834: no automatic answer to an automatic message.
    message["Auto-Submitted"] = "auto-generated"
    if notification.severity == "critical":
        message["Importance"] = "high"
    message.set_content(text(notification, box), cte="quoted-printable")
    return message


def _address(text: str, name: str = "") -> Address:
    if not text.isascii() or text.count("@") != 1:
        raise ValueError(text)
    return Address(name, addr_spec=text)


def _deliver(config: MailSettings, message: bytes, progress: _Progress) -> Answer:
    connection = _connect(config, progress)
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
        if code != 250:
            raise smtplib.SMTPDataError(code, words)
        left = "; ".join(f"not to {to}: {_words(*why)}" for to, why in refused.items())
        return Answer("taken", _words(code, words) + (f" ({left})" if left else ""), reached=True)
    finally:
        connection.close()


def _connect(config: MailSettings, progress: _Progress) -> smtplib.SMTP:
    context = ssl.create_default_context()
    # Its own guess asks the name service for this box's name, which may take the whole time.
    name = socket.gethostname()
    name = name if name.replace("-", "").replace(".", "").isalnum() and name.isascii() else "box"
    connection: smtplib.SMTP
    if config.security == "tls":
        connection = smtplib.SMTP_SSL(local_hostname=name, timeout=config.timeout, context=context)
    else:
        connection = smtplib.SMTP(local_hostname=name, timeout=config.timeout)
    # Both verify that the certificate is this host's; connect() alone does not pass the name on.
    connection._host = config.host  # type: ignore[attr-defined]
    code, words = connection.connect(config.host, config.port)
    progress.connection = connection
    if code != 220:
        raise smtplib.SMTPConnectError(code, words)
    if config.security == "starttls":
        connection.ehlo_or_helo_if_needed()
        connection.starttls(context=context)
        connection.ehlo()
    return connection


def _expect(
    answer: tuple[int, bytes], code: int, kind: Callable[[int, bytes, str], Exception], about: str
) -> None:
    if answer[0] != code:
        raise kind(answer[0], answer[1], about)


def _judge(error: smtplib.SMTPException, progress: _Progress) -> Answer:
    """Return what an SMTP failure means: 5xx to this message is for good, all else is later."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        words = "; ".join(f"{to}: {_words(*why)}" for to, why in error.recipients.items())
        good = all(code >= 500 for code, _ in error.recipients.values())
        return Answer("refused" if good else "later", words)
    if isinstance(error, smtplib.SMTPAuthenticationError):
        # Nothing is wrong with the message: it goes out once the login is mended.
        said = _words(error.smtp_code, error.smtp_error)
        return Answer("later", f"refuses the login: {said}", down=True)
    if isinstance(error, smtplib.SMTPConnectError | smtplib.SMTPHeloError):
        return Answer("later", _words(error.smtp_code, error.smtp_error), down=True)
    if isinstance(error, smtplib.SMTPResponseException):
        refused = error.smtp_code >= 500
        said = _words(error.smtp_code, error.smtp_error)
        return Answer("refused" if refused else "later", said)
    down = isinstance(error, smtplib.SMTPNotSupportedError)
    words = str(error) or type(error).__name__
    return Answer("later", words, reached=progress.handed_over, down=down)


def _words(code: int, said: bytes | str) -> str:
    plain = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return f"it answered {code} {' '.join(plain.split())[:300]}"
