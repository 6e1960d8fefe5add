# SPDX-License-Identifier: Apache-2.0
"""A CSV file to its rows: lines, cells, how they are written, and when they were."""
