# SPDX-License-Identifier: Apache-2.0
"""The mirror: the hub's shared tables kept in the box's file for the next outage."""
