"""PostgreSQL behind the Database interface: pooled connections with deadlines."""
