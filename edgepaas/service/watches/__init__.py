# SPDX-License-Identifier: Apache-2.0
"""Watches: threads of the service that notice what changes, and act on it."""
