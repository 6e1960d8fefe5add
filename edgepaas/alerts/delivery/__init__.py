# SPDX-License-Identifier: Apache-2.0
"""Delivery: due notifications are sent through the channels; also the dead man's switch."""
