"""The decision between PostgreSQL and SQLite: pure rules, probed facts, one contract."""
