# SPDX-License-Identifier: Apache-2.0
"""What a box lost, or would lose with its files: found out, kept, acknowledged by an operator.

``lost_state`` notices a state folder that was deleted, ``unsent`` counts what is not at home,
``acknowledge`` keeps what an operator knows of.
"""
