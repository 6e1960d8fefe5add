# SPDX-License-Identifier: Apache-2.0
"""Under which addresses the box is reached from the network, as its kernel has them now."""

import ipaddress
import re
from pathlib import Path

_IPV4 = Path("/proc/net/fib_trie")
_IPV6 = Path("/proc/net/if_inet6")
#: An address of this machine's own, under its leaf of the trie.
_LEAF = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL")
#: Scope of an address that is good beyond its link (if_inet6: proc(5)).
_GLOBAL = "00"
#: IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE (linux/if_addr.h).
_PASSING = 0x01 | 0x08 | 0x20 | 0x40
#: More are of no use to a person: containers and tunnels have dozens.
_MOST = 8


def reached_at(host: str, *, ipv4: Path = _IPV4, ipv6: Path = _IPV6) -> list[str]:
    """Return the addresses under which a service that listens on *host* is reached.

    *host* itself where that is one address; of ``::`` every address of the machine, of
    ``0.0.0.0`` those of IPv4. Loopback, link-local and temporary ones are left out. Never raises:
    what cannot be read has none.
    """
    if host not in ("0.0.0.0", "::"):
        return [host]
    found = _own_ipv4(ipv4) + (_own_ipv6(ipv6) if host == "::" else [])
    return found[:_MOST]


def _own_ipv4(file: Path) -> list[str]:
    addresses = dict.fromkeys(_LEAF.findall(_text(file)))  # of two tables, each once
    return [one for one in addresses if not _of_no_use(ipaddress.ip_address(one))]


def _own_ipv6(file: Path) -> list[str]:
    found = []
    for line in _text(file).splitlines():
        digits, _, _, scope, flags = line.split()[:5]
        if scope != _GLOBAL or int(flags, 16) & _PASSING:
            continue
        address = ipaddress.IPv6Address(bytes.fromhex(digits))
        if not _of_no_use(address):
            found.append(str(address))
    return found


def _of_no_use(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_loopback or address.is_link_local


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:  # no such family, or no /proc
        return ""
