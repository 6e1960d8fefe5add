# SPDX-License-Identifier: Apache-2.0
"""Channels: webhook and e-mail. A new kind of webhook or channel starts here."""
