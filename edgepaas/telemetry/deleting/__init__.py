# SPDX-License-Identifier: Apache-2.0
"""Readings are deleted by an operator, with who and why; what was deleted is kept."""
