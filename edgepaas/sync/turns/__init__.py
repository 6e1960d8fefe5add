# SPDX-License-Identifier: Apache-2.0
"""What the drainer does beside sending rows: each turn knows when it is due, and does its work.

``edgepaas.sync.worker.SyncWorker`` gives them their turns, in one thread.
"""
