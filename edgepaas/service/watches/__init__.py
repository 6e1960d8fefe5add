"""Watches: threads of the service that notice what changes, and act on it."""
