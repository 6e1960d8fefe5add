# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --repair``: find out what is wrong, keep what was there, mend, explain.

Nothing is dropped. ``sqlite_file`` mends the box's file, ``server`` PostgreSQL, ``completion`` adds
what a database lacks of its models.
"""
