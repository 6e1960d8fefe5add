# SPDX-License-Identifier: Apache-2.0
"""Alembic's entry, as every application writes it."""

from alembic import context

from edgepaas.app.migrations import run

run(context)
