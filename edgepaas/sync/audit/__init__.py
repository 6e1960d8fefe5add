# SPDX-License-Identifier: Apache-2.0
"""The audit: is every row that the box accepted accounted for on both sides?

``audit`` compares, ``box`` reads the counters of the SQLite file, ``hub`` those of PostgreSQL.
"""
