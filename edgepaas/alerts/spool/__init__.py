# SPDX-License-Identifier: Apache-2.0
"""The alert spool: an alert is accepted whole and synced, or not at all."""
