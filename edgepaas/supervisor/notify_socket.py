# SPDX-License-Identifier: Apache-2.0
"""The manager's end of sd_notify(3): receives the service's messages to ``edgepaas up``."""

import contextlib
import os
import secrets
import socket
import struct

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class NotifySocket:
    """A datagram socket that takes messages of one process alone."""

    def __init__(self) -> None:
        # In the abstract namespace: no folder to find, nothing left behind by a kill -9.
        self._name = f"edgepaas-{os.getpid()}-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{self._name}")
        self._socket.setblocking(False)

    @property
    def address(self) -> str:
        """The value of NOTIFY_SOCKET for the child."""
        return f"@{self._name}"

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return self._socket.fileno()

    def read(self, sender: int) -> list[str]:
        """Return the lines that the process *sender* sent since the last call."""
        lines: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(
                    4096, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
                if _sender(ancillary) == sender:
                    lines += data.decode("utf-8", "replace").split("\n")
        return lines

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
    return -1
