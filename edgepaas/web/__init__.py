# SPDX-License-Identifier: Apache-2.0
"""HTTP: the application factory, errors, tokens, limits, the platform's own routes."""
