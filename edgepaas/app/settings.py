# SPDX-License-Identifier: Apache-2.0
"""Settings of an application's own: declared like the platform's, set in ``edgepaas.env``.

::

    NOTES_MAX = integer("NOTES_MAX", 1000, 1, 1_000_000, "The most notes that are kept.")
    NOTES_KEY = text("NOTES_KEY", "", "The key of the notes' archive.", secret=True)

    application = Application(name="notes", settings=(NOTES_MAX, NOTES_KEY), …)

    most = box.settings.integer("NOTES_MAX")

They have the platform's sources (process environment, systemd credentials, the file of
settings, Vault or OpenBao, the default; ``NAME_FILE=/path`` for each), its errors, and its
place in ``edgepaas settings``. A value that cannot be read is reported by the environment
stage and takes the default. A name that the platform has, or that the system acts upon
(PATH, LD_PRELOAD, NOTIFY_SOCKET, …), is refused when the application is loaded; a name is
capitals and digits with single underscores.

*help* is one sentence for an operator. Values are read with the method of their kind:
``box.settings.text``, ``integer``, ``number`` (also for :func:`seconds`), ``flag``,
``size`` (bytes) and ``items``.
"""

from edgepaas.settings.declare import choice, flag, integer, items, number, seconds, size, text
from edgepaas.settings.kinds import Setting

__all__ = ["Setting", "choice", "flag", "integer", "items", "number", "seconds", "size", "text"]
