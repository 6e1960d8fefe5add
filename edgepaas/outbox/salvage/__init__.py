# SPDX-License-Identifier: Apache-2.0
"""Salvage: what a damaged SQLite file still holds for the hub."""
