# SPDX-License-Identifier: Apache-2.0
"""Rehearsing an outage (``edgepaas drill outage``) on a scratch box and a scratch database.

``outage`` performs the steps and makes the report. It uses ``scratch_box`` (folders, settings and
processes of the box), ``scratch_database`` (where its rows go), ``relay`` (the connection between
the two, which can be cut), ``load`` (devices that write through the API) and ``count`` (what
PostgreSQL has of it at the end). ``interrupts`` defers Ctrl-C where it would leave something
behind. A new situation is a method of ``outage.OutageDrill`` and a name in ``outage.SITUATIONS``.
"""
