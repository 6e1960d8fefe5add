# SPDX-License-Identifier: Apache-2.0
"""SQLite behind the Database interface: many readers, one group-commit writer."""
