# SPDX-License-Identifier: Apache-2.0
"""Which settings an application declares, for resolving and listing settings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgepaas.errors import ConfigurationError
from edgepaas.hosting.loading import load_application
from edgepaas.settings.derive import SettingProblem
from edgepaas.settings.kinds import Setting
from edgepaas.settings.own import own_settings
from edgepaas.settings.table import SETTINGS

if TYPE_CHECKING:
    from edgepaas.settings.render import Groups


def declared_by(application: str) -> tuple[Mapping[str, Setting], Sequence[SettingProblem]]:
    """Return the settings that the *application* (as EDGEPAAS_APP names it) declares.

    For :func:`edgepaas.settings.resolve.resolve_box`. One that cannot be loaded is no reason
    for the environment stage to fail: the stages after it say so and end; a finding says
    that its settings are not known.
    """
    try:
        return own_settings(load_application(application).settings), ()
    except ConfigurationError as error:
        message = f"settings of the application's own are not read: {error}"
        return {}, (SettingProblem("warning", ("EDGEPAAS_APP",), message),)


def documented_sections() -> "Groups":
    """Return the sections of the documents: the table's, and the default application's."""
    from edgepaas.settings.render import sections

    name = SETTINGS["EDGEPAAS_APP"].default
    return sections(name, declared_by(name)[0].values())
