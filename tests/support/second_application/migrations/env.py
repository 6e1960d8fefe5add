# SPDX-License-Identifier: Apache-2.0
"""Alembic's entry, as every application writes it."""

from alembic import context

from edgepaas.schema.environment import run

run(context)
