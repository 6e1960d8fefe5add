# SPDX-License-Identifier: Apache-2.0
"""The schema of PostgreSQL: many boxes start at once, one migrates."""
