# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: Waitress on sockets that are ours, with limits that hold for each client."""
