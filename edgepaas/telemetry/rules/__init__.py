"""Rules: which readings, or which missing ones, are worth an alert."""
