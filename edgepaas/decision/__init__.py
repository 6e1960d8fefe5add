# SPDX-License-Identifier: Apache-2.0
"""The decision between PostgreSQL and SQLite: pure rules, probed facts, one contract."""
