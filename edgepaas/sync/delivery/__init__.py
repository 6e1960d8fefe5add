"""Delivery of captured rows: each batch exactly once, in one transaction."""
