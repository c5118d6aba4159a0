"""The description of the API as a page of plain HTML, made from its OpenAPI object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from boneage.serving.problems import MEDIA_TYPE

_CURL = "curl -F image=@hand.png -F sex=F -F chronological_age_months=118 {token}{address}{path}"
_CURL_DICOM = "curl -F image=@hand.dcm -o answer.dcm {token}{address}{path}"


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
        f'<title>{title}</title><link rel="icon" href="page/icon.svg">',
        '<link rel="stylesheet" href="page/docs.css"></head><body><main>',
        f"<h1>{title} {escape(openapi['info']['version'])}</h1>",
        f"<p>{escape(openapi['info'].get('description', ''))}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    problems: dict[str, str] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('description', ''))}</p><ul>")
            parts += [f"<li>{line}</li>" for line in _operation(operation, problems)]
            parts.append("</ul>")
            if method == "post":
                token = '-H "Authorization: Bearer $BONEAGE_TOKEN" ' if has_token else ""
                example = _CURL_DICOM if "/dicom/" in path else _CURL
                command = example.format(token=token, address=address, path=path)
                parts.append(f"<pre><code>{escape(command)}</code></pre>")
    parts.append("<h2>Problems</h2><table><tr><th>Status<th>Meaning</tr>")
    parts += [f"<tr><td>{status}<td>{text}</tr>" for status, text in sorted(problems.items())]
    parts.append("</table>")
    for name, schema in openapi.get("components", {}).get("schemas", {}).items():
        parts.append(f'<h2 id="{escape(name)}">{escape(name)}</h2>')
        parts.append(f"<p>{escape(schema.get('description', ''))}</p>")
        parts += _fields(schema)
    return "\n".join([*parts, "</main></body></html>"])


def _operation(operation: Mapping[str, Any], problems: dict[str, str]) -> Iterator[str]:
    """Yield what an operation takes and returns, and collect its problems."""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Takes {_kind(content['schema'])} ({escape(kind)})."
    own = []
    for status, response in operation["responses"].items():
        text = escape(response["description"])
        for kind, content in response.get("content", {"text/plain": {}}).items():
            if kind == MEDIA_TYPE:
                problems[status] = text
                own.append(status)
            else:
                yield f"Returns {status}: {text} {_kind(content.get('schema', {}))} ({kind})."
    if own:
        yield f'Or a <a href="#ProblemObject">problem</a>: {", ".join(own)}.'


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "<table><tr><th>Field<th>Type<th>Meaning</tr>"
    for name, field in schema.get("properties", {}).items():
        needed = " (needed)" if name in schema.get("required", ()) else ""
        text = escape(field.get("description", ""))
        yield f"<tr><td><code>{escape(name)}</code>{needed}<td>{_kind(field)}<td>{text}</tr>"
    yield "</table>"


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
