# SPDX-License-Identifier: Apache-2.0
"""Forms of a webhook's body: chats, services that call people, and what all forms share."""
