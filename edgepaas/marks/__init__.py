# SPDX-License-Identifier: Apache-2.0
"""Marks: what PostgreSQL acknowledged while it served, so that what it loses has a number.

Each open connection of the service has a *stream* on the hub (table ``sync_connections``).
Every transaction moves its mark by compare-and-set, in COMMIT's flight; a mark that does not
move, or one below what the box knows, shows that the server went back in time.

``rider`` moves the marks, ``hub`` reads them, ``comparison`` finds what is missing, ``record``
keeps what the box knows in ``state/marks.json``, ``keeper`` does all of it for the service,
``check`` compares for any other process.
"""
