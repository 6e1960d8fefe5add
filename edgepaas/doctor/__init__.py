# SPDX-License-Identifier: Apache-2.0
"""The preflight: everything the box needs, each with what to do about it."""

from edgepaas.doctor.findings import Examination, Finding, examine

__all__ = ["Examination", "Finding", "examine"]
