# SPDX-License-Identifier: Apache-2.0
"""Who is let in before anything of a body is kept: asked by the loop, once a head has come.

The guard asks again when the request is whole; this only spares the box what a stranger sends.
"""

from typing import TYPE_CHECKING, Any

from edgepaas.apikit.problems import Problem
from edgepaas.apikit.werkzeug_adapter import HTTPException
from edgepaas.web.access.auth import SAFE_METHODS, Guard
from edgepaas.web.access.locality import comes_from_box
from edgepaas.web.access.proxies import TrustedProxies

if TYPE_CHECKING:
    from flask import Flask


class Entrance:
    """Decides by heads alone; for the loop's thread."""

    def __init__(
        self,
        app: "Flask",
        guard: Guard,
        proxies: TrustedProxies,
        *,
        application_guarded: bool,
    ) -> None:
        self._views = app.view_functions
        self._routes = app.url_map.bind("")
        self._guard = guard
        self._proxies = proxies
        self._application_guarded = application_guarded

    def refusal(self, request: Any, address: str) -> Problem | None:
        """Return how *request*, whose body is still to come from *address*, is refused.

        None: the body may come.
        """
        if not self._application_guarded and not self._is_platform(request):
            return None
        local = address not in self._proxies and comes_from_box(address, request.headers.get)
        try:
            self._guard.identify(
                request.headers.get("AUTHORIZATION"),
                lambda: local,
                writes=request.command not in SAFE_METHODS,
            )
        except Problem as problem:
            return problem
        return None

    def knows(self, authorization: str) -> bool:
        """Whether an Authorization header shows a valid token."""
        return self._guard.find(authorization, is_local=lambda: False, writes=False) is not None

    def is_proxy(self, address: str) -> bool:
        """Whether *address* is one of TRUSTED_PROXIES."""
        return address in self._proxies

    def _is_platform(self, request: Any) -> bool:
        try:
            endpoint, _ = self._routes.match(request.path, method=request.command)
        except HTTPException:
            return True  # nothing reads such a body
        return bool(getattr(self._views.get(endpoint), "platform", False))
