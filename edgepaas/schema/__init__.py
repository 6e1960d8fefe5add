# SPDX-License-Identifier: Apache-2.0
"""Bringing a database's schema to head, on either database, without ever dropping data."""
