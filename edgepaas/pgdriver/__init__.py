"""PostgreSQL connections with real deadlines, and what their failures mean."""
