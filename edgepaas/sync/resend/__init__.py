# SPDX-License-Identifier: Apache-2.0
"""A hub that went back in time: what it lost is queued again before anything else is sent.

``recovery`` does it under the lock of the stream, ``home`` finds the shared rows that only this
box has any more.
"""
