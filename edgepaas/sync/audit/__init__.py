# SPDX-License-Identifier: Apache-2.0
"""The audit: every accepted row is counted on both sides."""
