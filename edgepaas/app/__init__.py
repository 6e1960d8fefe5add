# SPDX-License-Identifier: Apache-2.0
"""The public interface of applications: everything that one may import from the platform.

=========================  ==================================================================
``edgepaas.app``           what an application is (:class:`Application`) and what the box
                           hands to it (:class:`Box`); light to import
``edgepaas.app.models``    tables: their base, their kinds, column types, keys
``edgepaas.app.facts``     appending facts, each stored once; inserting what is not there yet
``edgepaas.app.append``    an endpoint that appends facts, declared once
``edgepaas.app.api``       the API kit: blueprints, fields, the one error body, the caller
``edgepaas.app.errors``    the errors that the platform raises and expects
``edgepaas.app.settings``  declaring settings of the application's own
``edgepaas.app.commands``  sub-commands of the application's own: ``edgepaas NAME COMMAND``
``edgepaas.app.http``      requests to other servers, under a real deadline
``edgepaas.app.storage``   files beside the tables: a small SQLite file, a lock
``edgepaas.app.migrations``  what ``env.py`` and the revisions of a schema import; what they
                           rename beyond what can be seen (``edgepaas.app.renamed``)
=========================  ==================================================================

What lies elsewhere in ``edgepaas`` may change with any release. Importing this package
imports neither Flask nor SQLAlchemy: a stage of the boot chain that needs no more than an
application's name, its settings and its migrations must not pay for them. An application
keeps to that by importing its models and views in functions (``models=``, ``blueprints=``).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from edgepaas import __version__ as PLATFORM_VERSION
from edgepaas.app.application import Application, SmokeRequest, WSGIApplication

__all__ = [
    "PLATFORM_VERSION",
    "Application",
    "Box",
    "BoxState",
    "PeriodicTask",
    "RaiseAlert",
    "ResolveAlert",
    "SmokeRequest",
    "TaskAlert",
    "WSGIApplication",
    "Worker",
    "jitter",
    "pause_after",
    "renamed",
    "renamed_table",
    "retired",
]

if TYPE_CHECKING:
    from edgepaas.app.box import Box, BoxState, RaiseAlert, ResolveAlert, Worker
    from edgepaas.app.migrations import renamed, renamed_table, retired
    from edgepaas.timing.backoff import jitter, pause_after
    from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert
else:
    #: What a running box needs is imported when it is first asked for: most stages of the boot
    #: chain ask an application for its settings and its migrations alone.
    _IMPORTED_WHEN_USED = {
        **dict.fromkeys(
            ("Box", "BoxState", "RaiseAlert", "ResolveAlert", "Worker"), "edgepaas.app.box"
        ),
        **dict.fromkeys(("jitter", "pause_after"), "edgepaas.timing.backoff"),
        **dict.fromkeys(("renamed", "renamed_table", "retired"), "edgepaas.app.migrations"),
        **dict.fromkeys(("PeriodicTask", "TaskAlert"), "edgepaas.timing.periodic_task"),
    }

    def __getattr__(name: str) -> object:
        module = _IMPORTED_WHEN_USED.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(module), name)
        return value
