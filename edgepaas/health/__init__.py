# SPDX-License-Identifier: Apache-2.0
"""Is the box fit to serve: bounded checks, the verification gate, one vocabulary of states."""
