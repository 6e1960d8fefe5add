# SPDX-License-Identifier: Apache-2.0
"""The one way to the data, whichever database holds it.

``open_database`` opens what was decided. For the authors of applications everything that
models are made of comes from here::

    from edgepaas.database import Text, UtcDateTime, Uuid, new_model_base, utc_now, uuid7

Importing this package imports neither SQLAlchemy nor a driver; a name of the models does.
"""

import importlib
from typing import TYPE_CHECKING

from edgepaas.database.database import Database
from edgepaas.database.opening import open_database

if TYPE_CHECKING:
    from edgepaas.database.ids import name_id, uuid7
    from edgepaas.database.model import KindedModel, new_metadata, new_model_base
    from edgepaas.database.types import Json, Number, Text, UtcDateTime, Uuid, utc_now

__all__ = [
    "Database",
    "Json",
    "KindedModel",
    "Number",
    "Text",
    "UtcDateTime",
    "Uuid",
    "name_id",
    "new_metadata",
    "new_model_base",
    "open_database",
    "utc_now",
    "uuid7",
]

#: Where the names are that are imported when somebody asks for them (PEP 562).
_LATER = {
    **dict.fromkeys(("name_id", "uuid7"), "ids"),
    **dict.fromkeys(("KindedModel", "new_metadata", "new_model_base"), "model"),
    **dict.fromkeys(("Json", "Number", "Text", "UtcDateTime", "Uuid", "utc_now"), "types"),
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
