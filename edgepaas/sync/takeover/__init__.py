# SPDX-License-Identifier: Apache-2.0
"""When PostgreSQL takes over again: the rehearsal, how long the rest takes, the turn."""
