# SPDX-License-Identifier: Apache-2.0
"""Delivery of captured rows: each batch exactly once, in one transaction."""
