# SPDX-License-Identifier: Apache-2.0
"""The application factory: the platform's routes and guards around an application."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from flask import Blueprint, Flask, Response, request

from edgepaas.apikit.blueprint import ApiBlueprint
from edgepaas.apikit.problems import Problem
from edgepaas.app import Application, Box, WSGIApplication
from edgepaas.errors import ConfigurationError
from edgepaas.files.local_token import make_local_token
from edgepaas.health.checks import HealthBoard
from edgepaas.health.system import SystemMeter
from edgepaas.hosting.refusal import as_application_error
from edgepaas.web.access.auth import AccessRules, Guard, install_guard
from edgepaas.web.access.entrance import Entrance
from edgepaas.web.access.proxies import ClientAddresses, TrustedProxies
from edgepaas.web.access.rate_limits import install_rate_limit
from edgepaas.web.access.tokens import TokenStore
from edgepaas.web.errors import install_errors
from edgepaas.web.headers import SecurityHeaders, install_cors
from edgepaas.web.plain_appends import Hooks, PlainAppends, plain_routes
from edgepaas.web.plain_reads import PlainReads, plain_read_routes
from edgepaas.web.request_ids import RequestIDs
from edgepaas.web.request_meter import RequestMeter
from edgepaas.web.views.alerts import alerts_blueprint
from edgepaas.web.views.health import HealthReporter, health_blueprint
from edgepaas.web.views.metrics import MetricsPage, metrics_blueprint
from edgepaas.web.views.nodes import nodes_blueprint
from edgepaas.web.views.openapi import OpenAPIDocument
from edgepaas.web.views.root import root_view, status_view

logger = logging.getLogger("edgepaas.web")

PLAIN_APPENDS = "edgepaas.plain_appends"
#: Where clients ask, whichever application runs; one of its own is left to it.
_STATUS = "/api/v1/status"
ENTRANCE = "edgepaas.entrance"
_ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def create_app(
    box: Box,
    application: Application,
    health: HealthBoard,
    *,
    tokens: TokenStore | None = None,
) -> Flask:
    """Return the Flask application that serves *application* in *box*.

    *health* is asked by the readiness routes; *tokens* are by default those of the box.
    Raises ConfigurationError for an application that takes one of the platform's own
    routes.
    """
    app = Flask("edgepaas", static_folder=None)
    settings = box.settings
    app.config["MAX_CONTENT_LENGTH"] = settings.size("REQUEST_MAX_BYTES")
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's default provider has it
    # A redirect is a status that no operation documents; both spellings, or 404.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    rules = AccessRules.of(settings)
    developing = settings.text("ENV") == "development" and settings.text("LOG_LEVEL") == "DEBUG"
    install_errors(app, debug=developing)
    limiter = install_rate_limit(app, settings.number("RATE_LIMIT"), settings.number("RATE_BURST"))
    _install_address_check(app)
    headers = install_cors(app, settings)
    guard = Guard(rules, tokens or _token_store(box))
    install_guard(app, guard, application_guarded=application.guarded)
    requests = RequestMeter()
    reads = PlainReads(app.wsgi_app)
    app.wsgi_app = reads  # type: ignore[method-assign]
    requests.install(app)
    hooks = Hooks(app)
    documented = _register(app, box, application, health, requests)
    _register_openapi(app, OpenAPIDocument(app, application, documented, rules, box.build_version))
    proxies = TrustedProxies(settings.items("TRUSTED_PROXIES"))
    app.wsgi_app = ClientAddresses(  # type: ignore[method-assign]
        RequestIDs(SecurityHeaders(app.wsgi_app)), proxies
    )
    app.extensions[ENTRANCE] = Entrance(
        app, guard, proxies, application_guarded=application.guarded
    )
    admits = guard if application.guarded else None
    reads.use(plain_read_routes(app, hooks), admits, limiter, headers=headers)
    app.extensions[PLAIN_APPENDS] = PlainAppends(
        plain_routes(app, hooks), admits, limiter, requests, headers=headers, proxies=proxies
    )
    return app


def _token_store(box: Box) -> TokenStore:
    try:
        local = make_local_token(box.paths.local_token)
    except OSError as error:  # a full /run is no reason not to serve
        logger.warning("%s is not written: %s", box.paths.local_token, error)
        local = ""
    return TokenStore(box.paths.tokens, local=local)


def plain_appends(app: Flask) -> PlainAppends:
    """Return what answers the plain appends of an *app* that :func:`create_app` made."""
    return cast(PlainAppends, app.extensions[PLAIN_APPENDS])


def entrance(app: Flask) -> Entrance:
    """Return what decides about bodies to an *app* that :func:`create_app` made."""
    return cast(Entrance, app.extensions[ENTRANCE])


def _register(
    app: Flask,
    box: Box,
    application: Application,
    health: HealthBoard,
    requests: RequestMeter,
) -> list[ApiBlueprint]:
    """Register the platform's routes, then the application's; return what is documented."""
    keep = box.settings.number("HEALTH_CACHE")
    meter = SystemMeter(box.settings, box.paths.state, cache_seconds=keep)
    own = [
        health_blueprint(HealthReporter(box, health, meter)),
        alerts_blueprint(box),
        nodes_blueprint(box),
        metrics_blueprint(MetricsPage(box, health, meter, requests)),
    ]
    for ours in own:
        app.register_blueprint(ours)
    given: Sequence[Blueprint] = ()
    if application.blueprints is not None:
        with as_application_error(application, "its blueprints"):
            given = tuple(application.blueprints(box))
            for blueprint in given:
                app.register_blueprint(blueprint)
    for ours in own:
        _mark_platform(app, ours.name)
    if application.wsgi is not None:
        with as_application_error(application, "its WSGI callable"):
            mounted = application.wsgi(box)
        _mount(app, mounted)
    else:
        taken = {rule.rule for rule in app.url_map.iter_rules()}
        if "/" not in taken:
            root = root_view(app, box, application, health)
            purpose = "What the box is, and how it is: JSON for programs, a page for people"
            _add_platform_route(app, "/", root, purpose)
        if _STATUS not in taken:
            _add_platform_route(app, _STATUS, status_view(box), "The state of the box")
    return [*own, *(blueprint for blueprint in given if isinstance(blueprint, ApiBlueprint))]


def _mark_platform(app: Flask, name: str) -> None:
    """Mark the platform's views; refuse an application that has a route of theirs."""
    paths = set()
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{name}."):
            cast(Any, app.view_functions[rule.endpoint]).platform = True
            paths.add(rule.rule)
    for rule in app.url_map.iter_rules():
        if rule.rule in paths and not rule.endpoint.startswith(f"{name}."):
            raise ConfigurationError(f"the application cannot have {rule.rule}: the box needs it")


def _register_openapi(app: Flask, document: OpenAPIDocument) -> None:
    def openapi() -> Response:
        return document.view()

    _add_platform_route(app, "/openapi.json", openapi, "The API's description, for programs")


def _add_platform_route(app: Flask, path: str, view: Callable[[], Response], purpose: str) -> None:
    view.platform = True  # type: ignore[attr-defined]
    view.purpose = purpose  # type: ignore[attr-defined]
    app.add_url_rule(path, f"platform{path.replace('.', '_')}", view)


def _mount(app: Flask, wsgi: WSGIApplication) -> None:
    """Hand every path that nobody else has to a WSGI application, body unread."""

    def catch_all(path: str = "") -> Response:
        return cast(Response, Response.from_app(wsgi, request.environ))

    catch_all.catch_all = True  # type: ignore[attr-defined]
    options: dict[str, Any] = {"methods": _ALL_METHODS, "provide_automatic_options": False}
    app.add_url_rule("/", "application", catch_all, **options)
    app.add_url_rule("/<path:path>", "application", catch_all, **options)


def _install_address_check(app: Flask) -> None:
    """Refuse addresses that no text column, log or view can take."""

    @app.before_request
    def refuse_bad_addresses() -> None:
        query = unquote_to_bytes(request.environ.get("QUERY_STRING", "").encode("latin-1"))
        for part in (request.environ.get("PATH_INFO", "").encode("latin-1"), query):
            if b"\0" in part:
                raise Problem(400, "The address holds a NUL.")
            try:
                part.decode("utf-8")
            except UnicodeDecodeError:
                raise Problem(400, "The address is no UTF-8.") from None
