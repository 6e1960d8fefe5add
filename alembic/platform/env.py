# SPDX-License-Identifier: Apache-2.0
"""Alembic's entry: everything that is to be known lies in edgepaas.schema.environment."""

from alembic import context

from edgepaas.schema.environment import run

run(context)
