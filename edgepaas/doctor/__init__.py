"""The preflight: everything the box needs, each with what to do about it."""

from edgepaas.doctor.findings import Examination, Finding, examine

__all__ = ["Examination", "Finding", "examine"]
