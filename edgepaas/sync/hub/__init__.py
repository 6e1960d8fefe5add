# SPDX-License-Identifier: Apache-2.0
"""The hub as the drainer uses it: connection, tables, schema, heartbeat, the other boxes.

``connection`` sends statements, ``catalog`` describes the hub's tables, ``schema_upgrade`` brings
them to head, ``heartbeat`` and ``heartbeat_sender`` report this box in ``nodes``, ``fleet`` keeps
the list of all boxes in ``run/nodes.json``.
"""
