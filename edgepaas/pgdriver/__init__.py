# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL connections with real deadlines, and what their failures mean."""
