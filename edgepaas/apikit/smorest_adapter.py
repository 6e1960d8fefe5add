# SPDX-License-Identifier: Apache-2.0
"""What is used of flask-smorest's and webargs' insides; no other module imports them.

flask-smorest documents a blueprint's decorators and the OpenAPI document that it makes when
the application is made. Here the document is made at the first question for it, each
operation declares the errors that every one may have, and a body is read strictly, so this
is used beside:

- ``Blueprint._prepare_doc_cbks``: functions called for each operation's document, as
  ``f(doc, doc_info, *, api, spec, name, method, **_)``, which return it.
- ``view._apidoc``: what the decorators have noted about a view, by their names; it reaches
  those functions as ``doc_info``. ``doc(**kwargs)`` keeps its arguments in ``manual_doc``.
- ``Blueprint.register_views_in_doc(api, app, spec, *, name, parameters)``.
- ``Blueprint.ARGUMENTS_PARSER``, ``PAGINATION_ARGUMENTS_PARSER``: the parsers of arguments.
- ``Api._register_error_handlers()``: overridden, so that errors stay ours; ``Api._app``,
  ``Api.spec``, ``Api.ERROR_SCHEMA``.
- ``FlaskParser.load_json(req, schema)``, ``load_querystring(req, schema)``,
  ``handle_error(error, …)``, ``DEFAULT_UNKNOWN_BY_LOCATION``: overridden.
- ``MultiDictProxy``: what a schema is given where values come from an address.

``tests/unit/test_adapter_smorest.py`` fails when a new version changes any of it. The upper
bound in ``pyproject.toml`` is the first version that was not tested.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flask_smorest import Api, Blueprint
from webargs.flaskparser import FlaskParser
from webargs.multidictproxy import MultiDictProxy

__all__ = ["AdaptedApi", "AdaptedBlueprint", "FlaskParser", "from_address", "noting", "summary_of"]

View = TypeVar("View", bound=Callable[..., Any])

#: The schemas that flask-smorest puts into each document for its own pages.
OWN_SCHEMAS = ("PaginationMetadata",)


class AdaptedBlueprint(Blueprint):  # type: ignore[misc]  # flask-smorest has no types
    """A blueprint that has each operation's document finished by :meth:`finish_operation`."""

    if TYPE_CHECKING:  # what flask-smorest's decorators are to a type checker
        name: str
        description: str

        def route(self, rule: str, **options: Any) -> Callable[[View], View]: ...

        def arguments(self, schema: Any, **options: Any) -> Callable[[View], View]: ...

        def response(
            self, status_code: int, schema: Any = None, **options: Any
        ) -> Callable[[View], View]: ...

        def doc(self, **kwargs: Any) -> Callable[[View], View]: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(self._finish)

    def finish_operation(
        self, doc: dict[str, Any], noted: dict[str, Any], manual: dict[str, Any], method: str
    ) -> None:
        """Complete *doc*, the operation's document, in place.

        *noted* are the notes of :func:`noting` and of the decorators by name, *manual* what
        ``doc()`` was given, *method* the HTTP method in lower case. Responses stand in *doc*
        by status, as text or number.
        """

    def _finish(
        self, doc: dict[str, Any], doc_info: dict[str, Any], *, method: str, **_: Any
    ) -> dict[str, Any]:
        self.finish_operation(doc, doc_info, doc_info.get("manual_doc", {}), method)
        return doc


class AdaptedApi(Api):  # type: ignore[misc]  # flask-smorest has no types
    """The document, made when the routes are there already; errors are left alone."""

    def _register_error_handlers(self) -> None:
        """Leave every error to the application's own handlers."""

    def describe(self, blueprint: AdaptedBlueprint) -> None:
        """Take the operations of a registered *blueprint* into the document."""
        blueprint.register_views_in_doc(
            self, self._app, self.spec, name=blueprint.name, parameters=None
        )
        self.spec.tag({"name": blueprint.name, "description": blueprint.description})

    def document(self) -> dict[str, Any]:
        """Return what was described, without flask-smorest's own schemas."""
        document: dict[str, Any] = self.spec.to_dict()
        for name in OWN_SCHEMAS:
            document["components"].get("schemas", {}).pop(name, None)
        return document


def noting(name: str, *values: Any) -> Callable[[View], View]:
    """Return a decorator that adds *values* to the note *name* about a view."""

    def decorator(view: View) -> View:
        @wraps(view)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return view(*args, **kwargs)

        documented = cast(Any, wrapper)
        documented._apidoc = deepcopy(getattr(view, "_apidoc", {}))
        documented._apidoc[name] = (*documented._apidoc.get(name, ()), *values)
        return cast(View, wrapper)

    return decorator


def summary_of(view: Callable[..., Any]) -> str:
    """Return the summary that ``doc(summary=…)`` gave the *view*; empty: none."""
    noted: dict[str, Any] = getattr(view, "_apidoc", {})
    return str(noted.get("manual_doc", {}).get("summary", ""))


def from_address(data: Any) -> bool:
    """Whether *data*, which a schema was given, comes from an address: everything is text."""
    return isinstance(data, MultiDictProxy)
