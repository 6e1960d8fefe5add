# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's protocol in few round trips: what belongs together travels in one flight.

A *flight* is what is sent before an answer is waited for: one Sync, and one ReadyForQuery to
read (PostgreSQL manual, 55.2.3 "Extended Query" and 55.2.4 "Pipelining"). BEGIN travels with
the first statement of a transaction, COMMIT with what closes it, and a read that is one
statement needs neither.
"""

from edgepaas.pgdriver.flights.answers import Result, Statement
from edgepaas.pgdriver.flights.connection import FlightConnection, run_flight
from edgepaas.pgdriver.flights.rider import CommitRider
from edgepaas.pgdriver.flights.riders import RiderChain

__all__ = ["CommitRider", "FlightConnection", "Result", "RiderChain", "Statement", "run_flight"]
