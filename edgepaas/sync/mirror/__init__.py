# SPDX-License-Identifier: Apache-2.0
"""The mirror: the hub's shared tables kept current in the SQLite file for the next outage.

``mirror`` makes a pass, ``ordered_rows`` reads the rows of both sides in the order of the key,
``difference`` stores what differs and applies it, ``stored_values`` converts PostgreSQL's values to
the form that the box stores.
"""
