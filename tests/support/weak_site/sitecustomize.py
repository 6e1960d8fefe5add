# SPDX-License-Identifier: Apache-2.0
"""Imported by every Python that starts with this folder on PYTHONPATH (see "site")."""

import os

from tests.support import weaken

weaken.install(os.environ.get(weaken.VARIABLE, "").split(","))
