# SPDX-License-Identifier: Apache-2.0
"""What the box keeps for a hub that went back in time: putting changes among those that wait.

``insertion`` puts them at their place in the outbox, ``recovery_state`` keeps what the file
knows of the hub's history. ``counters`` says which increments the hub
lacks for sure. ``agreed_rows`` are the digests of what both sides had at the mirror's last pass.
"""
