# SPDX-License-Identifier: Apache-2.0
"""Rules: which readings, or which missing ones, are worth an alert."""
