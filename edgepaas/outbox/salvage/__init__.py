"""Salvage: what a damaged SQLite file still holds for the hub."""
