# SPDX-License-Identifier: Apache-2.0
"""Conditions: what is known of each cause of an alert, and when an operator is to be notified."""
