"""The disk budget of the SQLite file, and what makes room in it."""
