# SPDX-License-Identifier: Apache-2.0
"""Alembic's entry: everything that is to be known lies in edgepaas.app.migrations."""

from alembic import context

from edgepaas.app.migrations import run

run(context)
