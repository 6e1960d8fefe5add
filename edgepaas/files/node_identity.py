# SPDX-License-Identifier: Apache-2.0
"""``state/node.json``: who this box is, for as long as it is the same box."""

import hashlib
import hmac
import logging
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepaas.files import shapes
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType, set_aside
from edgepaas.timing.moment import rfc3339

logger = logging.getLogger("edgepaas.files")

MACHINE_ID = Path("/etc/machine-id")

#: machine-id(5): the id itself is confidential; what leaves the box is a keyed hash of it.
_APPLICATION = b"edgepaas-node"
#: Earlier ids of this box that are kept.
_REMEMBERED = 10

RECORD = RecordType(
    "node",
    2,
    {
        "node_id": shapes.text,
        "made_at": shapes.text,
        "machine": shapes.text,
        "was": shapes.list_of(shapes.text),
    },
    {1: lambda old: {"was": [], **old}},
)


@dataclass(frozen=True)
class Node:
    """The box's identity; ``machine`` is a hash of the machine's own id, empty without one.

    ``was`` are the ids that the state folder had on other machines, the latest last.
    """

    node_id: str
    made_at: str
    machine: str
    was: tuple[str, ...] = ()


def node_identity(paths: Paths, *, machine_id: Path = MACHINE_ID) -> Node:
    """Return the box's identity, made once; of two processes that ask at once both get one.

    A state folder that came from another machine (a cloned card) gets an id of its own. A
    machine without an id keeps what is there, and so does one that gets its id later. A
    file that is not understood is set aside and made anew. Raises OSError, LockHeld.
    """
    machine = machine_of(machine_id)
    known = node_in(paths.node)
    if known is not None and known.machine == machine:
        return known
    with held(paths.node.with_suffix(".lock")):
        known = node_in(paths.node)
        torn = known is None and paths.node.exists()
        node = _settled(known, machine, torn=torn)
        if torn:
            set_aside(paths.node, RECORD.name, "its content is damaged or of another version")
        if node != known:
            write_node(paths.node, node)
        return node


def write_node(path: Path, node: Node) -> None:
    """Write *node* to *path*; raises OSError."""
    RECORD.write(path, _fields(node))


def _settled(known: Node | None, machine: str, *, torn: bool) -> Node:
    if known is None:
        if torn:
            logger.error("node.json cannot be read: this box gets a new node id")
        return _new(machine)
    if not machine or known.machine == machine:
        return known
    if not known.machine:
        return Node(known.node_id, known.made_at, machine, known.was)
    node = _new(machine, (*known.was, known.node_id)[-_REMEMBERED:])
    logger.warning(
        "the state folder comes from another machine: node %s is %s here",
        known.node_id,
        node.node_id,
    )
    return node


def _new(machine: str, was: tuple[str, ...] = ()) -> Node:
    made_at = rfc3339(time.time())
    return Node(str(uuid.uuid4()), made_at, machine, was)


def machine_of(path: Path = MACHINE_ID) -> str:
    """Return the keyed hash of the machine's own id; empty where it has none."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""  # a container has none
    if len(text) != 32:  # machine-id(5): empty or "uninitialized" before the first boot
        return ""
    return hmac.new(text.encode(), _APPLICATION, hashlib.sha256).hexdigest()[:32]


def node_in(path: Path) -> Node | None:
    """Return what *path* holds; None where it is absent or not understood."""
    try:
        found = RECORD.read(path)
        if found is None:
            return None
        node_id = str(uuid.UUID(found["node_id"]))
    except ValueError:  # no such record, or no such id
        return None
    return Node(node_id, found["made_at"], found["machine"], tuple(found["was"]))


def _fields(node: Node) -> dict[str, Any]:
    return {
        "node_id": node.node_id,
        "made_at": node.made_at,
        "machine": node.machine,
        "was": list(node.was),
    }
