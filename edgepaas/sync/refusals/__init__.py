# SPDX-License-Identifier: Apache-2.0
"""Tables that PostgreSQL refuses as a whole: told from a refused row, and tried until they pass."""
