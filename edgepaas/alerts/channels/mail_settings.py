# SPDX-License-Identifier: Apache-2.0
"""What an e-mail is sent with, for the channel and for SMTP.

It stands apart, since the channel must not import SMTP before there is something to send.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MailSettings:
    """A mail server, a sender, the recipients; *security* is that of SMTP__SECURITY."""

    host: str
    port: int
    security: str
    username: str
    password: str = field(repr=False)
    sender: str
    to: tuple[str, ...]
    #: Seconds that one delivery may take.
    timeout: float
    #: The name by which the box greets the server; "": its host name, or its address.
    helo: str = ""
