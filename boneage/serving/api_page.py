"""The description of the API as a page of plain HTML, made from its OpenAPI object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_CURL = "curl -F image=@hand.png -F sex=F -F chronological_age_months=118 {token}{address}{path}"


def describe_api(openapi: Mapping[str, Any], address: str, *, has_token: bool) -> str:
    """Return the page.

    Args:
        openapi: The OpenAPI object.
        address: The address of the server, for the examples.
        has_token: Whether requests need a token.
    """
    title = escape(openapi["info"]["title"])
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f'<title>{title}</title><link rel="stylesheet" href="/page/page.css"></head><body><main>',
        f"<h1>{title} {escape(openapi['info']['version'])}</h1>",
        f"<p>{escape(openapi['info'].get('description', ''))}</p>",
        '<p>For programs: <a href="/openapi.json">openapi.json</a>.</p>',
    ]
    schemas = openapi.get("components", {}).get("schemas", {})
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('description', ''))}</p>")
            parts += _operation(operation, schemas)
            if method == "post":
                token = '-H "Authorization: Bearer $BONEAGE_TOKEN" ' if has_token else ""
                command = _CURL.format(token=token, address=address, path=path)
                parts.append(f"<pre><code>{escape(command)}</code></pre>")
    for name, schema in schemas.items():
        parts.append(f'<h2 id="{escape(name)}">{escape(name)}</h2>')
        parts.append(f"<p>{escape(schema.get('description', ''))}</p>")
        parts += _fields(schema)
    return "\n".join([*parts, "</main></body></html>"])


def _operation(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield "<h3>Form fields</h3>"
        yield from _fields(_resolve(content["schema"], schemas))
    yield "<h3>Responses</h3><table><tr><th>Status<th>Media type<th>Content</tr>"
    for status, response in operation["responses"].items():
        for kind, content in response.get("content", {"": {}}).items():
            what = _kind(content.get("schema", {}))
            text = escape(response["description"])
            yield f"<tr><td>{status}<td>{escape(kind)}<td>{text} {what}</tr>"
    yield "</table>"


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "<table><tr><th>Field<th>Type<th>Meaning</tr>"
    for name, field in schema.get("properties", {}).items():
        needed = " (needed)" if name in schema.get("required", ()) else ""
        text = escape(field.get("description", ""))
        yield f"<tr><td><code>{escape(name)}</code>{needed}<td>{_kind(field)}<td>{text}</tr>"
    yield "</table>"


def _resolve(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return schemas[name] if name else schema


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type of a field in words, with a link where it is an object."""
    if ref := schema.get("$ref", "").rpartition("/")[2]:
        return f'<a href="#{escape(ref)}">{escape(ref)}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(repr(value))}</code>" for value in schema["enum"])
    if "items" in schema:
        return f"list of {_kind(schema['items'])}"
    return escape(str(schema.get("format") or schema.get("type", "")))
