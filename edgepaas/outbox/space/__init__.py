# SPDX-License-Identifier: Apache-2.0
"""The disk budget of the SQLite file, and what makes room in it."""
