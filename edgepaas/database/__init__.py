# SPDX-License-Identifier: Apache-2.0
"""The one way to the data, whichever database holds it: ``open_database`` opens what was decided.

Importing this package imports neither SQLAlchemy nor a driver. What models are made of is
offered to applications by :mod:`edgepaas.app.models`.
"""

from edgepaas.database.database import Database
from edgepaas.database.opening import box_connector, open_database

__all__ = ["Database", "box_connector", "open_database"]
