"""The schema of the SQLite file: migrated on a copy, checked, swapped in."""
