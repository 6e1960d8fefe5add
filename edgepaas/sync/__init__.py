# SPDX-License-Identifier: Apache-2.0
"""Bringing rows home to PostgreSQL: drain, mirror, heartbeat, and handing back to it."""
