# SPDX-License-Identifier: Apache-2.0
"""SQLAlchemy is imported without asyncio, and nobody notices."""

import subprocess
import sys

CODE = """
import sys
from edgepaas.database.lean_import import import_sqlalchemy
import_sqlalchemy()
import sqlalchemy, sqlalchemy.orm
engine = sqlalchemy.create_engine("sqlite://")
with engine.connect() as connection:
    assert connection.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
print("asyncio" in sys.modules)
with engine.connect() as connection:
    try:
        connection.execute(sqlalchemy.text("SELECT nonsense"))
    except sqlalchemy.exc.OperationalError as error:
        print(type(error).__name__)
import asyncio
print(asyncio.run(asyncio.sleep(0, "real")))
"""


def test_asyncio_stays_out_until_somebody_needs_it() -> None:
    """Also after an error, which SQLAlchemy compares with asyncio's own exceptions."""
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["False", "OperationalError", "real"], result.stderr
