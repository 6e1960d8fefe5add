"""The platform's own routes."""
