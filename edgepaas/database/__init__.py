"""The one way to the data, whichever database holds it.

``open_database`` opens what was decided; ``model``, ``types`` and ``ids`` are what an
application's models are made of. Importing this package imports neither SQLAlchemy nor a
driver.
"""

from edgepaas.database.database import Database
from edgepaas.database.opening import open_database

__all__ = ["Database", "open_database"]
