"""Alembic's entry, as every application writes it."""

from alembic import context

from edgepaas.app.migrations import run

run(context)
