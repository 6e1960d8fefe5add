# SPDX-License-Identifier: Apache-2.0
"""The public interface of applications: everything that one may import from the platform.

Importing it is light, since a boot stage that needs no more than an application's name and
its migrations must not pay for Flask and SQLAlchemy.
"""

from edgepaas.app.application import (
    Application,
    Box,
    BoxState,
    RaiseAlert,
    ResolveAlert,
    SmokeRequest,
    Worker,
    WSGIApplication,
)

__all__ = [
    "Application",
    "Box",
    "BoxState",
    "RaiseAlert",
    "ResolveAlert",
    "SmokeRequest",
    "WSGIApplication",
    "Worker",
]
