# SPDX-License-Identifier: Apache-2.0
"""One connection to a name with several addresses: the first that answers wins (RFC 8305).

A host name's IPv6 address may lead nowhere while its IPv4 address works, or the other way
round; tried one after the other, the dead one takes the time of the good one.
"""

import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from edgepaas.timing.deadline import Scope

#: Seconds for which one address is tried alone before the next one is as well (RFC 8305, 5).
_HEAD_START = 0.25
#: Seconds after which the deadline is looked at again.
_LOOK_EVERY = 0.25

#: What socket.getaddrinfo returns of each address.
Found = tuple[Any, Any, int, str, Any]


def connect_first(found: Iterable[Found], scope: Scope) -> socket.socket:
    """Return a connected socket to one of the addresses *found*, in blocking mode.

    Raises OSError (of the last address that failed), OutOfTime.
    """
    waiting = deque(_alternating(list(found)))
    last: OSError = OSError("the name has no address")
    under_way: dict[int, socket.socket] = {}
    poll = select.poll()
    with ExitStack() as opened:
        next_start = 0.0
        while waiting or under_way:
            left = scope.enter("connect")
            if waiting and (time.monotonic() >= next_start or not under_way):
                next_start = time.monotonic() + _HEAD_START
                try:
                    sock = opened.enter_context(_begun(waiting.popleft()))
                except OSError as error:
                    last, next_start = error, 0.0
                    continue
                under_way[sock.fileno()] = sock
                poll.register(sock, select.POLLOUT)
            until_next = max(0.0, next_start - time.monotonic()) if waiting else _LOOK_EVERY
            for number, _ in poll.poll(min(left, _LOOK_EVERY, until_next) * 1000):
                sock = under_way.pop(number)
                poll.unregister(number)
                if not (code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                    under_way.clear()
                    return _released(sock, opened)
                # The class that the code has, such as ConnectionRefusedError.
                last, next_start = OSError(code, os.strerror(code)), 0.0
    scope.enter("connect")
    raise last


def _released(sock: socket.socket, opened: ExitStack) -> socket.socket:
    """Return *sock* itself, out of what is closed together."""
    kept = sock.dup()
    opened.close()
    kept.setblocking(True)
    return kept


def _begun(found: Found) -> socket.socket:
    """Return a socket that is being connected; raises OSError."""
    family, kind, protocol, _, address = found
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(code, os.strerror(code))
    return sock


def _alternating(found: list[Found]) -> list[Found]:
    """Return the addresses with their families in turn, the resolver's first one first."""
    if not found:
        return []
    first = [one for one in found if one[0] == found[0][0]]
    other = [one for one in found if one[0] != found[0][0]]
    mixed: list[Found] = []
    while first or other:
        mixed += [queue.pop(0) for queue in (first, other) if queue]
    return mixed
