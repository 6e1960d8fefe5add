# SPDX-License-Identifier: Apache-2.0
"""What became of the application's own writes, by table and cause.

A probe that writes a row of its own proves that the server takes writes; it proves nothing
about the application's tables. This room counts how writes to them end on PostgreSQL
(:mod:`~edgepaas.outcomes.outcomes`), says whose fault an error is
(:mod:`~edgepaas.outcomes.causes`), and tries a table's write path without leaving a trace
(:mod:`~edgepaas.outcomes.rehearsal`). The catalog says whether a table would keep every row as it
is (:mod:`~edgepaas.outcomes.fit`). What PostgreSQL refuses is kept in a file
(:mod:`~edgepaas.outcomes.refused_tables`), for the processes that decide by it.
"""
