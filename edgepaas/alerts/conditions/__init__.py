# SPDX-License-Identifier: Apache-2.0
"""Conditions: what is known of each cause of an alert, and when a human is to be notified."""
