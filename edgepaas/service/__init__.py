# SPDX-License-Identifier: Apache-2.0
"""The process that serves: its socket, its lanes, its start, its watch over itself, its end."""
