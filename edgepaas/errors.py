# SPDX-License-Identifier: Apache-2.0
"""The expected failures, each with its exit status.

Each names what is wrong and the way out; the command line prints it without a
traceback (:func:`edgepaas.cli.main`), the web layer turns it into the one error
body (:mod:`edgepaas.web.errors`).
"""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
#: The chain is to be run again: EX_TEMPFAIL of sysexits.h, SuccessExitStatus= in the unit.
EXIT_DECIDE_AGAIN = 75
#: The configuration has no sane reading: EX_CONFIG of sysexits.h.
EXIT_CONFIGURATION = 78


class EdgePaaSError(Exception):
    """Base of every expected failure; ``exit_code`` is what the process ends with."""

    exit_code = EXIT_FAILED


class UsageError(EdgePaaSError):
    """The command line itself is wrong."""

    exit_code = EXIT_USAGE


class ConfigurationError(EdgePaaSError):
    """A setting has no sane reading and no default; names setting, value and what is allowed."""

    exit_code = EXIT_CONFIGURATION


class DecideAgain(EdgePaaSError):
    """What was decided no longer holds; the chain has to be run again."""

    exit_code = EXIT_DECIDE_AGAIN


class DatabaseError(EdgePaaSError):
    """Base of what the database layer raises instead of a driver's own connection errors."""

    #: Seconds after which a client may try again (``Retry-After``).
    retry_after = 2


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached, or was lost: whether the work was done is unknown."""


class DatabaseBusy(DatabaseError):
    """The database is there but took no more work within the bound; nothing was written."""


class DatabaseFull(DatabaseError):
    """There is no room left on the disk; nothing was written."""


class ValueRefused(ValueError):
    """A column's type refuses a value that it was given: the values of a request are wrong.

    Raised before a statement is run; SQLAlchemy hands it on as the ``orig`` of a StatementError.
    """


class DatabaseRefused(DatabaseError):
    """The database cannot hold a value that it was given; nothing was written."""


class RowNotStored(DatabaseRefused):
    """The database accepted a row and does not have it: something there removed it."""
