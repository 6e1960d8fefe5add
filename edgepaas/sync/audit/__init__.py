"""The audit: every accepted row is counted on both sides."""
