# SPDX-License-Identifier: Apache-2.0
"""Migrations while rows wait: what they rename is recorded, and what would lose a value waits."""
