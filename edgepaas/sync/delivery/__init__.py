# SPDX-License-Identifier: Apache-2.0
"""Delivery of captured rows to the hub: each batch exactly once, in one transaction.

``drain`` sends one batch, ``reconcile`` and ``marks`` first bring file and hub in step.
From changes to SQL: ``runs`` groups them, ``planner`` chooses templates (``statements``, with the
expressions of ``sql_fragments``, for the columns that ``column_mapping`` finds on both sides),
``sending`` binds values, which ``values`` converts. ``apply`` is the fast way, ``bisect`` the way
that finds a refused row, ``dead_letters`` keeps such rows and applies them again.
"""
