# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL behind the Database interface: pooled connections with deadlines."""
