# SPDX-License-Identifier: Apache-2.0
"""Making the :class:`Box` that an application is given."""

import logging
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.app.box import Box, BoxState
from edgepaas.build import build_version
from edgepaas.files.locks import LockHeld
from edgepaas.files.node_identity import node_identity
from edgepaas.settings.own import own_settings

if TYPE_CHECKING:
    from edgepaas.app.application import Application
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.application")


def make_box(
    application: "Application",
    settings: "Settings",
    paths: "Paths",
    contract: "DatabaseContract",
    database: "Database",
    *,
    state: Callable[[], BoxState],
) -> Box:
    """Return what the *application* is given; *state* tells the box's state at any time."""
    return Box(
        settings=settings.declared(own_settings(application.settings)),
        paths=paths,
        contract=contract,
        database=database,
        build_version=build_version(),
        state=state,
        node_id=_node_id(paths),
    )


def _node_id(paths: "Paths") -> str:
    try:
        return node_identity(paths).node_id
    except (OSError, LockHeld) as error:
        # The box serves all the same, as with a full disk; an id of its own for this run
        # keeps it apart from every other box.
        logger.warning("this box has no id yet (%s): one is used for this run", error)
        return str(uuid.uuid4())
