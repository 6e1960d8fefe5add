# SPDX-License-Identifier: Apache-2.0
"""The platform's own routes."""
