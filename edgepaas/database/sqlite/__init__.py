"""SQLite behind the Database interface: many readers, one group-commit writer."""
