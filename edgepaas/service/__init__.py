# SPDX-License-Identifier: Apache-2.0
"""The process that serves: its start, its watches and its end."""
