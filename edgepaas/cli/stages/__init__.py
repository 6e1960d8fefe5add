# SPDX-License-Identifier: Apache-2.0
"""The boot chain's commands, one a file: env, dbdecide, schema, serve; up and verify."""
