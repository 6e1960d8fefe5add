# SPDX-License-Identifier: Apache-2.0
"""Write the generated documents: docs/settings.md, api.md and alerts.md (``make docs``).

    reference.py [--check]

They say what the code says: the table of settings, the alert catalogue, and the OpenAPI
document of a box with the built-in application, beside the routes that are not in it.
``--check`` changes nothing and ends with 1, naming each document that differs. Runs in a
checkout: the box is the one that the tests open.
"""

import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from common import REPOSITORY

DOCS = REPOSITORY / "docs"
#: The methods of OpenAPI in the order in which they are shown.
METHODS = ("get", "post", "put", "patch", "delete")

API_HEAD = """\
# The HTTP API

<!-- Written by 'make docs' from the OpenAPI document; not to be edited here. -->

What a box with the built-in application answers. `/openapi.json` on the box is the same for
programs, with your own application's routes in place of the built-in one's.

- **Who may call.** In `ENV=development` loopback is open. In production writes need a token
  (`edgepaas token create NAME`, then `Authorization: Bearer …`), and so do reads from beyond
  loopback. `/health*`, `/ready` and `/metrics` need none unless `HEALTH_AUTH=true`. Below, *who*
  is for production.
- **Errors** are always `{"error", "message", "request_id", "details"}`. A 422 names the path of
  each wrong field, such as `[3].value` in a list. A 503 carries `Retry-After`; 507 means that the
  disk or its budget is full. Nothing that a client sends is answered with 500.
- **Repeats.** An `id` of the client's own, or an `Idempotency-Key`, makes a repeat harmless.
- **Pages.** `next_cursor` of one page is the `cursor` of the next; null on the last one. While
  SQLite serves because PostgreSQL is away, list answers say `"partial": true`. A cursor from before
  goes on in what the box has itself; where that ends, 409 `list_cut` says to start again.
- **`X-Request-ID`** is accepted, made where it is missing, and stands in every log line.
"""


def main(arguments: list[str]) -> int:
    """Write or compare the documents; returns the exit status."""
    sys.path.insert(0, str(REPOSITORY))
    behind = []
    for name, text in documents().items():
        path = DOCS / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        behind.append(name)
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
            print(f"written: docs/{name}")
    if behind and "--check" in arguments:
        print(f"behind the code: {', '.join(f'docs/{name}' for name in behind)}: run 'make docs'")
        return 1
    return 0


def documents() -> dict[str, str]:
    """Return every generated document by its name below docs/."""
    from edgepaas.alerts import catalogue_reference
    from edgepaas.hosting.settings import documented_sections
    from edgepaas.settings.render import markdown_reference

    return {
        "settings.md": markdown_reference(documented_sections()),
        "api.md": api_reference(),
        "alerts.md": catalogue_reference.markdown_reference(),
    }


def api_reference() -> str:
    """Return docs/api.md, as a box in production describes itself."""
    from edgepaas.files.paths import find_paths
    from edgepaas.web.views.root import list_endpoints
    from tests.support.telemetry_box import open_box

    with tempfile.TemporaryDirectory() as home:
        paths = find_paths({"EDGEPAAS_HOME": home})
        paths.create()
        with open_box(paths, ENV="production") as (app, _):
            answer = app.test_client().get("/openapi.json")
            document: dict[str, Any] = answer.get_json()
            endpoints = list_endpoints(app)
    others = [found for found in endpoints if found[1] not in document["paths"]]
    lines = [API_HEAD, "## Routes", *overview(document, others)]
    for tag in document["tags"]:
        lines += ["", f"## {tag['name'].capitalize()}", "", tag["description"]]
        for method, path, operation in operations(document):
            if tag["name"] in operation["tags"]:
                lines += describe(document, method, path, operation)
    lines += ["", "## Bodies", "", "A field in *italics* is required."]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += describe_schema(name, schema)
    return "\n".join(lines) + "\n"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (method, path, operation) in the order of the document."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def overview(document: dict[str, Any], others: list[tuple[str, str, str]]) -> Iterator[str]:
    """Yield the table of every route, those that are not in the document at its end."""
    yield from ("", "| route | what it does |", "|---|---|")
    for method, path, operation in operations(document):
        yield f"| {method.upper()} `{path}` | {operation['summary']} |"
    for methods, path, purpose in others:
        yield f"| {methods} `{path}` | {purpose} |"


def describe(
    document: dict[str, Any], method: str, path: str, operation: dict[str, Any]
) -> Iterator[str]:
    """Yield the section of one operation."""
    yield from ("", f"### {method.upper()} {path}", "", sentence(operation["summary"]))
    if operation.get("description"):
        yield from ("", *operation["description"].splitlines())
    yield ""
    yield f"- Who: {who(operation)}"
    for parameter in [
        *document["paths"][path].get("parameters", ()),
        *operation.get("parameters", ()),
    ]:
        yield f"- {one_parameter(parameter)}"
    if body := operation.get("requestBody"):
        forms = "; ".join(
            f"`{kind}`: {type_of(form['schema'])}" for kind, form in body["content"].items()
        )
        more = f" {body['description']}" if body.get("description") else ""
        yield f"- Body: {forms}.{more}"
    for status, answer in sorted(operation["responses"].items()):
        if status < "300":
            content = answer.get("content", {})
            shown = ", ".join(type_of(form["schema"]) for form in content.values()) or "no body"
            yield f"- {status}: {shown}"
    errors = [status for status in sorted(operation["responses"]) if status >= "300"]
    yield f"- Errors: {', '.join(errors)}"


def sentence(text: str) -> str:
    """Return *text* with the mark at its end."""
    return text if text.endswith("?") else f"{text}."


def who(operation: dict[str, Any]) -> str:
    """Return who may call an operation of a box in production."""
    security = operation["security"]
    if not security:
        return "everybody"
    return "loopback, and clients with a token" if {} in security else "clients with a token"


def one_parameter(parameter: dict[str, Any]) -> str:
    """Return one line about a parameter."""
    schema = parameter["schema"]
    default = schema.get("default")
    where = f"{parameter['in']}, required" if parameter["required"] else parameter["in"]
    parts = [
        f"`{parameter['name']}` ({where}):",
        type_of(schema) + limits(schema) + ".",
        parameter.get("description", ""),
        f"Default: `{default}`." if default not in (None, "") else "",
    ]
    return " ".join(part for part in parts if part)


def describe_schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """Yield the section of one body."""
    yield from ("", f"### {name}", "")
    if schema.get("description"):
        yield from (schema["description"], "")
    yield from ("| field | type | meaning |", "|---|---|---|")
    required = schema.get("required", ())
    for field, of_field in schema.get("properties", {}).items():
        shown = f"*`{field}`*" if field in required else f"`{field}`"
        meaning = of_field.get("description", "")
        if "example" in of_field:
            meaning = f"{meaning} Such as `{of_field['example']}`.".strip()
        kind = type_of(of_field) + limits(of_field)
        yield f"| {shown} | {kind.replace('|', chr(92) + '|')} | {meaning} |"


def type_of(schema: dict[str, Any]) -> str:
    """Return a schema's type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return " or ".join(type_of(one) for one in schema[several])
    if schema.get("enum"):
        return " or ".join(f"`{one}`" for one in schema["enum"] if one is not None)
    kinds = schema.get("type", "any value")
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    if "array" in names:
        return f"list of {type_of(schema['items'])}"
    return " or ".join(schema.get("format", name) if name == "string" else name for name in names)


def limits(schema: dict[str, Any]) -> str:
    """Return what bounds a value, in parentheses; empty where nothing does."""
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "maxItems": "at most {} items",
    }
    found = [text.format(schema[name]) for name, text in words.items() if name in schema]
    return f" ({', '.join(found)})" if found else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
