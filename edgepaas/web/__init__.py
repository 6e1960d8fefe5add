"""HTTP: the application factory, errors, tokens, limits, the platform's own routes."""
