# SPDX-License-Identifier: Apache-2.0
"""A notification as an e-mail (RFC 5322): headers that hold what was meant and nothing else.

The headers are written here and not by the email package: that reads an encoded word in the
text that it is given, and with it a line's end, so that a device's name could add a ``Bcc:``
(seen on Python 3.11.7).
"""

import base64
import quopri
import re
from email.utils import formatdate

from edgepaas.alerts.channels.mail_settings import MailSettings
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity, text, title
from edgepaas.logs.printable import printable_line

#: Bytes of UTF-8 in one encoded word, which has at most 75 characters (RFC 2047, 2).
_WORD_BYTES = 42
#: A line has at most 998 characters and should have 78 (RFC 5322, 2.1.1).
_LINE = 76
#: Words that stand for themselves; "=?" begins an encoded word.
_PLAIN = re.compile(r"[\x20-\x7e]*\Z")
_NAME = re.compile(r"[A-Za-z0-9 !#$%&'*+/=?^_`{|}~-]*\Z")
#: RFC 5321, 4.1.2: what is before the @ without quotes, and a domain or an address literal.
_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
    r"@(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[A-Za-z0-9.:]+\])\Z"
)


def compose_mail(config: MailSettings, notification: Notification, box: BoxIdentity) -> bytes:
    """Return the message as it is sent; raises ValueError for an address that is none.

    Its Message-ID is made of the notification's key: a mail that was sent twice can be recognised.
    """
    sender = _address(config.sender)
    headers = [
        ("Subject", _encoded(title(notification, box))),
        ("From", f"{_display_name(f'EdgePaaS {box.name}')} <{sender}>"),
        ("To", ",\r\n ".join(_address(to) for to in config.to)),
        ("Date", formatdate()),
        ("Message-ID", f"<{notification.key}@{sender.rpartition('@')[2]}>"),
        ("X-EdgePaaS-Key", notification.key),
        ("X-EdgePaaS-Severity", notification.severity),
        # RFC 3834: no automatic answer to an automatic message.
        ("Auto-Submitted", "auto-generated"),
        *([("Importance", "high")] if notification.severity == "critical" else []),
        ("MIME-Version", "1.0"),
        ("Content-Type", 'text/plain; charset="utf-8"'),
        ("Content-Transfer-Encoding", "quoted-printable"),
    ]
    head = "".join(f"{name}: {_one_header(value)}\r\n" for name, value in headers)
    body = quopri.encodestring(text(notification, box).encode())
    return head.encode("ascii") + b"\r\n" + body.replace(b"\n", b"\r\n")


def _encoded(value: str) -> str:
    """Return *value* as a header holds it: plain ASCII, or encoded words of RFC 2047."""
    line = printable_line(value)
    if _PLAIN.match(line) and "=?" not in line:
        return _folded(line)
    words, piece = [], b""
    for character in line:
        letter = character.encode("utf-8", "replace")
        if len(piece) + len(letter) > _WORD_BYTES:
            words.append(piece)
            piece = b""
        piece += letter
    words.append(piece)
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(word).decode()}?=" for word in words)


def _folded(line: str) -> str:
    """Return a line of ASCII in lines that are not too long, as far as it has blanks."""
    lines = [""]
    for word in line.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) + 1 > _LINE - len("Subject: "):
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return "\r\n ".join(lines)


def _display_name(name: str) -> str:
    plain = printable_line(name)
    return f'"{plain}"' if _NAME.match(plain) and "=?" not in plain else _encoded(plain)


def _address(given: str) -> str:
    if not _ADDRESS.match(given):
        raise ValueError(printable_line(given))
    return given


def _one_header(value: str) -> str:
    """Return *value*; ValueError where it is not one header's, whoever made it."""
    if re.search(r"\r\n(?! )|(?<!\r)\n|\r(?!\n)|[^\x20-\x7e\r\n]", value):
        raise ValueError("a header holds a line's end")
    return value
