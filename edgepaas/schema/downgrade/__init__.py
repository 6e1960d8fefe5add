# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --downgrade``: back to an earlier revision, behind an upgrade's safeguards.

``rehearsal`` runs it where nothing stays and says what would be lost; ``sqlite_file`` does it on a
copy of the box's file, ``server`` in one transaction on PostgreSQL, ``rows_kept`` writes down
first what goes there. ``target`` is the revision that is meant.
"""
