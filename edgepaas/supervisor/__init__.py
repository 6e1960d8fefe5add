# SPDX-License-Identifier: Apache-2.0
"""``edgepaas up``: the boot chain without systemd, in one process that may be PID 1."""
