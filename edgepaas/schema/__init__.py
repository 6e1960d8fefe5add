"""Bringing a database's schema to head, on either database, without ever dropping data."""
