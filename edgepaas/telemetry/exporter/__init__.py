# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry export``: readings of a running box as CSV or NDJSON."""
