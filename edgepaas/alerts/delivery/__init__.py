# SPDX-License-Identifier: Apache-2.0
"""Delivery: what is due is sent through the channels; its unit, its digest, its heartbeat."""
