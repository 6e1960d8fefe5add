# SPDX-License-Identifier: Apache-2.0
"""Which user runs the program at the other end of a loopback connection: read from /proc.

In production the loopback lets root and the service's own user read without a token: an
operator and the box's own commands. Anything else there may be any user, or a proxy that
hands on the requests of strangers without a word about it.
"""

import ipaddress
import os
import sys
from pathlib import Path

#: An established connection in the kernel's tables (include/net/tcp_states.h).
_ESTABLISHED = "01"
_PROC = Path("/proc/net")


def is_own_program(address: str, port: int, proc: Path = _PROC) -> bool:
    """Whether the client at *address* and *port*, on loopback, is root's or this user's."""
    users = peer_users(address, port, proc)
    return bool(users) and users <= {0, os.geteuid()}


def peer_users(address: str, port: int, proc: Path = _PROC) -> set[int]:
    """Return the users whose connections begin at *address* and *port*; none: it is not known."""
    try:
        wanted = _kernel_forms(address, port)
    except ValueError:
        return set()
    users = set()
    for table in ("tcp", "tcp6"):
        try:
            with (proc / table).open(encoding="ascii") as lines:
                for line in lines:
                    fields = line.split()
                    if fields[1] in wanted and fields[3] == _ESTABLISHED:
                        users.add(int(fields[7]))
        except OSError:
            continue  # no IPv6, or /proc is restricted: who is not known has to show a token
    return users


def _kernel_forms(address: str, port: int) -> set[str]:
    """Return how the kernel's tables may write the address: words of the machine's own order."""
    found = ipaddress.ip_address(address.partition("%")[0])
    forms = [found.packed]
    mapped = getattr(found, "ipv4_mapped", None)
    if mapped is not None:
        forms.append(mapped.packed)
    elif isinstance(found, ipaddress.IPv4Address):
        forms.append(bytes(10) + b"\xff\xff" + found.packed)
    return {f"{_words(form)}:{port:04X}" for form in forms}


def _words(packed: bytes) -> str:
    return "".join(
        f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}"
        for at in range(0, len(packed), 4)
    )
