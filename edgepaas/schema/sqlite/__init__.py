# SPDX-License-Identifier: Apache-2.0
"""The schema of the SQLite file: migrated on a copy, checked, swapped in."""
