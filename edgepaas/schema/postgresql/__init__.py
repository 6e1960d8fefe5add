"""The schema of PostgreSQL: many boxes start at once, one migrates."""
