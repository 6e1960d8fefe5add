# SPDX-License-Identifier: Apache-2.0
"""The journal: what the box wrote to PostgreSQL while that serves, in a file of the box's own.

Every write of a forwarded table that PostgreSQL acknowledged is in it before the client hears
of it, so that what a server loses of its own acknowledged transactions can be sent again. See
:class:`edgepaas.outbox.journal.journal.Journal`.
"""
