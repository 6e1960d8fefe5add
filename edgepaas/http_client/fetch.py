# SPDX-License-Identifier: Apache-2.0
"""One request and its answer, with the standard library alone."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass

from edgepaas.http_client.answers import CUT_SHORT, HttpAnswer, HttpFailure, failure_of
from edgepaas.http_client.connecting import Target, connect, secured, target_of, trust
from edgepaas.timing.deadline import OutOfTime, Scope, within

#: Bytes of an answer that are read where the caller sets no other bound.
MOST_BYTES = 1024 * 1024


def fetch(
    method: str,
    url: str,
    *,
    deadline: float,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    most_bytes: int = MOST_BYTES,
    cafile: str = "",
) -> HttpAnswer:
    """Make one request within *deadline* seconds and return its answer, whatever its status.

    No proxy, no redirect. *most_bytes* of the body are read; with 0 it is not waited for.
    *cafile*: the one authority that is trusted, instead of the system's. Raises HttpFailure.
    """
    target = target_of(url)
    exchange = _Exchange(target, method, headers or {}, body, most_bytes, cafile)
    try:
        return within(deadline, exchange.run)
    except OutOfTime:
        message = f"no answer within {deadline:g} s"
        raise HttpFailure("timeout", message, sent=exchange.sent) from None


@dataclass
class _Exchange:
    """The work of one request, in the thread that the deadline bounds."""

    target: Target
    method: str
    headers: Mapping[str, str]
    body: bytes | None
    most_bytes: int
    cafile: str
    #: Whether the server may have read something.
    sent: bool = False

    def run(self, scope: Scope) -> HttpAnswer:
        """Do it; raises HttpFailure, OutOfTime."""
        target = self.target
        try:
            context = trust(self.cafile) if target.scheme == "https" else None
            sock = connect(target.host, target.port, scope)
            if context is not None:
                sock = secured(sock, target.host, context, scope)
        except TimeoutError:  # of an address: the deadline itself raises OutOfTime
            raise OutOfTime(scope.stage, scope.seconds) from None
        except (OSError, UnicodeError) as error:
            raise failure_of(error, sent=False) from None
        kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
        connection = kind(target.host, target.port)
        connection.sock = sock
        try:
            return self._ask(connection, scope)
        except TimeoutError:
            raise OutOfTime(scope.stage, scope.seconds) from None
        except http.client.InvalidURL:
            raise HttpFailure("address", "is no address of a web server") from None
        except (http.client.RemoteDisconnected, http.client.IncompleteRead):
            raise HttpFailure("closed", CUT_SHORT, sent=True) from None
        except (OSError, http.client.HTTPException) as error:
            raise failure_of(error, sent=self.sent) from None
        except ValueError:
            # http.client's message would repeat the header, which may be a token.
            raise HttpFailure("address", "a header holds a character that none may") from None
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, scope: Scope) -> HttpAnswer:
        scope.enter("send the request")
        self.sent = True
        connection.request(self.method, self.target.path, self.body, dict(self.headers))
        scope.enter("read the answer")
        answer = connection.getresponse()
        content = answer.read(self.most_bytes + 1) if self.most_bytes else b""
        if len(content) <= self.most_bytes and self.most_bytes and answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        return HttpAnswer(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=content[: self.most_bytes],
            complete=len(content) <= self.most_bytes,
        )
