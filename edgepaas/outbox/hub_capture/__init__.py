# SPDX-License-Identifier: Apache-2.0
"""Capture while PostgreSQL serves: what each transaction changed, read in COMMIT's flight.

``triggers`` is the text of what captures on the hub, ``rider`` what rides with a transaction
to ask for it and to read it, ``decoding`` makes the outbox's own values of it, and ``upkeep``
looks whether every trigger is in place and puts back what is missing.
"""
