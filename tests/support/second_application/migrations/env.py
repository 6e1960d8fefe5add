"""Alembic's entry, as every application writes it."""

from alembic import context

from edgepaas.schema.environment import run

run(context)
