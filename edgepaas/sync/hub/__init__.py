# SPDX-License-Identifier: Apache-2.0
"""The hub as the drainer sees it: its connection, its tables, its record of this box."""
