"""Bringing rows home to PostgreSQL: drain, mirror, heartbeat, and handing back to it."""
