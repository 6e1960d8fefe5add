# SPDX-License-Identifier: Apache-2.0
"""What an application's own code raises, in one line that names EDGEPAAS_APP and the way out."""

import contextlib
import logging
import os
import traceback
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from edgepaas.app import Application
from edgepaas.errors import ConfigurationError, EdgePaaSError

#: Characters of an application's message: SQLAlchemy's hold whole statements.
_LONGEST_CAUSE = 400
#: Code that an application did not bring: the importer's, EdgePaaS', Python's, libraries'.
_NOT_THE_APPLICATION = (
    "<",
    f"{Path(__file__).parents[1]}{os.sep}",
    f"{Path(os.__file__).parent}{os.sep}",
)
_PACKAGES = frozenset({"site-packages", "dist-packages"})

logger = logging.getLogger("edgepaas.application")


@contextlib.contextmanager
def as_application_error(application: Application, part: str) -> Iterator[None]:
    """Turn what the *application*'s own code raises into one ConfigurationError.

    It names EDGEPAAS_APP and *part*, the piece of the application that the block runs.
    What the platform raises itself (an EdgePaaSError) passes as it is.
    """
    try:
        yield
    except EdgePaaSError:
        raise
    except (Exception, SystemExit) as error:
        raise refusal(application.loaded_as or application.name, error, part) from error


def refusal(target: str, error: BaseException, part: str = "") -> ConfigurationError:
    """Return the one line for what an application's own code raised."""
    logger.debug("the application %r cannot be used", target, exc_info=error)
    what = f"{part} cannot be used" if part else "the application cannot be loaded"
    return ConfigurationError(
        f"EDGEPAAS_APP={target}: {what}: {_cause(error)}; mend it, LOG_LEVEL=DEBUG logs the "
        "traceback"
    )


def _cause(error: BaseException) -> str:
    """Return *error* in one line, with the line of code that it comes from."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    if isinstance(error, SystemExit):
        said = f"it ended the process with {error.code!r}"
    else:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_CAUSE]}"
    said = said.rstrip(".: ") + _hint(error)
    # A mistake shows deep inside of SQLAlchemy; it was made where that was called from.
    own_frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_APPLICATION)
        and not _PACKAGES.intersection(Path(frame.filename).parts)
    ]
    if own_frames:
        said += f" ({own_frames[-1].filename}, line {own_frames[-1].lineno})"
    return said


def _hint(error: BaseException) -> str:
    if not isinstance(error, TypeError) or "Application.__init__()" not in str(error):
        return ""
    import difflib

    takes = [each.name for each in fields(Application) if each.init]
    wrong = str(error).rpartition("argument ")[2].strip("'")
    near = ["models"] if wrong == "metadata" else difflib.get_close_matches(wrong, takes, n=1)
    meant = f", did you mean {near[0]}=?" if near and near[0] != wrong else ""
    return f"{meant}; it takes {', '.join(takes)}"
