# SPDX-License-Identifier: Apache-2.0
"""Importing SQLAlchemy without what only its asynchronous engines need."""

import importlib
import inspect
import sys
import types
from typing import Any


def import_sqlalchemy() -> None:
    """Import SQLAlchemy without asyncio, which it imports for engines that are not used here.

    That spares each start some 30 ms and 6 MiB on an x86 box, more on a small one. To
    SQLAlchemy alone ``asyncio`` is a stand-in that turns into the real module at its
    first use (after an error of a connection, for one); any other importer of asyncio
    gets the real one. Does nothing where either is imported already.
    """
    if "asyncio" in sys.modules or "sqlalchemy" in sys.modules:
        return
    stand_in = _LateAsyncio("asyncio")
    sys.modules["asyncio"] = stand_in
    try:
        importlib.import_module("sqlalchemy.orm")
        # A dialect brings its asynchronous drivers along.
        importlib.import_module("sqlalchemy.dialects.sqlite")
    finally:
        if sys.modules.get("asyncio") is stand_in:
            del sys.modules["asyncio"]


class _LateAsyncio(types.ModuleType):
    # Taken at import already; asyncio's own is this one and a check for generators.
    iscoroutine = staticmethod(inspect.iscoroutine)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get("asyncio") is self:
            del sys.modules["asyncio"]
        return getattr(importlib.import_module("asyncio"), name)
