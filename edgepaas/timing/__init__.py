# SPDX-License-Identifier: Apache-2.0
"""Time on the box: one reading of the clocks, deadlines, back-off and periodic work."""
