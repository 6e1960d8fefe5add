# SPDX-License-Identifier: Apache-2.0
"""Changes of devices and rules are recorded: what, by whose token, on which box."""
