# SPDX-License-Identifier: Apache-2.0
"""Rehearsing an outage: a box of its own, a relay that can be cut, and a count at the end."""
