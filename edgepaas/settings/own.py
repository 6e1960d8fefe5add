# SPDX-License-Identifier: Apache-2.0
"""Settings of an application's own, beside those of the table: which names it may declare.

They have the same sources, the same kinds and the same errors as the table's. A stage that
loads no application finds their values in ``run/env``, read and checked.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from edgepaas.errors import ConfigurationError
from edgepaas.settings.derive import SettingProblem
from edgepaas.settings.kinds import Malformed, Setting
from edgepaas.settings.table import SETTINGS

_NAME = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\Z")
#: NAME_FILE=/path gives NAME; the other two are the platform's and passed through untouched.
_TAKEN_SUFFIX = "_FILE"
_TAKEN_PREFIXES = ("EDGEPAAS_", "APP_")
#: Names that systemd, the loader, Python or a shell act upon: ``run/env`` is the service's
#: environment, and a setting there would take the place of what they were given.
_OF_THE_SYSTEM = re.compile(
    r"(?:PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TMPDIR|IFS|NOTIFY_SOCKET|MAINPID|"
    r"MANAGERPID|INVOCATION_ID|JOURNAL_STREAM|LD_.*|LC_.*|PYTHON.*|LISTEN_.*|WATCHDOG_.*|"
    r"(?:RUNTIME|STATE|CACHE|LOGS|CONFIGURATION|CREDENTIALS)_DIRECTORY)\Z"
)

#: Given EDGEPAAS_APP: the settings that this application declares, and why they are not known.
Declare = Callable[[str], tuple[Mapping[str, Setting], Sequence[SettingProblem]]]


def declare_none(_application: str) -> tuple[Mapping[str, Setting], Sequence[SettingProblem]]:
    """Know no application: the table's settings alone."""
    return {}, ()


def own_settings(declared: Iterable[Setting]) -> dict[str, Setting]:
    """Return the *declared* settings by name.

    Raises ConfigurationError for a name that is the platform's, is declared twice or could
    not be set, and for a default that is no value of its kind.
    """
    found: dict[str, Setting] = {}
    for setting in declared:
        name = setting.name
        if name in SETTINGS:
            raise ConfigurationError(f"its setting {name} is the platform's: choose another name")
        if name in found:
            raise ConfigurationError(f"its setting {name} is declared twice")
        if (
            not _NAME.match(name)
            or name.endswith(_TAKEN_SUFFIX)
            or name.startswith(_TAKEN_PREFIXES)
        ):
            raise ConfigurationError(
                f"its setting {name!r} cannot be set: a name is CAPITALS_AND_DIGITS with single "
                "underscores, and neither begins with EDGEPAAS_ or APP_ nor ends with _FILE"
            )
        if _OF_THE_SYSTEM.match(name):
            raise ConfigurationError(f"its setting {name} is the system's: choose another name")
        try:
            canonical = setting.read(setting.default) if setting.default else ""
        except Malformed as error:
            raise ConfigurationError(
                f"the default of its setting {name}, {setting.default!r}, {error}; allowed: "
                f"{setting.allowed}"
            ) from None
        if canonical != setting.default:
            raise ConfigurationError(
                f"the default of its setting {name}, {setting.default!r}, is to be written "
                f"{canonical!r}"
            )
        found[name] = setting
    return found
