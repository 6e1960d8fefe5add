# SPDX-License-Identifier: Apache-2.0
"""The errors that the platform raises, and those that it expects of an application.

A :class:`DatabaseError` that a view does not catch is answered with 503 and
``Retry-After``, but 507 for :class:`DatabaseFull` and 422 for :class:`DatabaseRefused`. An
:class:`EdgePaaSError` that leaves a command is printed as one line, without a traceback, and
ends the process with its ``exit_code``.
"""

from edgepaas.errors import (
    EXIT_CONFIGURATION,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_USAGE,
    ConfigurationError,
    DatabaseBusy,
    DatabaseError,
    DatabaseFull,
    DatabaseRefused,
    DatabaseUnavailable,
    EdgePaaSError,
    UsageError,
)

__all__ = [
    "EXIT_CONFIGURATION",
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_USAGE",
    "ConfigurationError",
    "DatabaseBusy",
    "DatabaseError",
    "DatabaseFull",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "EdgePaaSError",
    "UsageError",
]
