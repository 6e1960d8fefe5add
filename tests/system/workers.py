# SPDX-License-Identifier: Apache-2.0
"""Several workers share a run of the tests, and what is built once for all of them."""

import os
from pathlib import Path

import pytest


def run_owner() -> int:
    """Return the process that the whole run is: a worker's parent, else this one.

    What is named after it is everybody's in the run, and swept away once the run is over.
    """
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this run, the same one in each worker."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
