"""The boot chain's commands, one a file: env, dbdecide, schema, serve; up and verify."""
