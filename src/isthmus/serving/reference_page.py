"""The page at `/docs`: the OpenAPI document as plain HTML, with nothing from elsewhere: it shows offline too."""

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response

from isthmus.serving.pages import HEADERS

Schema = Mapping[str, Any]
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Isthmus: what can be asked</title>
<link rel="stylesheet" href="/page/style.css">
</head>
<body>
<header><h1>What can be asked</h1><p>The same for programs: <a href="/openapi.json">openapi.json</a></p></header>
<main class="reference">
"""


def add_reference(app: FastAPI) -> None:
    """Answer `/docs`."""

    @app.get("/docs", include_in_schema=False)
    async def reference() -> Response:
        return Response(reference_of(app.openapi()), media_type="text/html; charset=utf-8", headers=HEADERS)


def reference_of(document: Schema) -> str:
    """An OpenAPI document as a page."""
    parts = [HEAD]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<section><h2>{method.upper()} <code>{escape(path)}</code></h2>")
            parts.append(_paragraph(operation.get("description", "")))
            parameters = operation.get("parameters", ())
            if parameters:
                rows = [(one["name"], one["schema"], one.get("required", False)) for one in parameters]
                parts.append(_table("parameter", rows))
            body = _content(operation.get("requestBody", {}))
            if body is not None:
                parts.append(f"<p>Body: {_kind(body)}</p>")
            for status, answer in operation["responses"].items():
                content = _content(answer)
                gives = "" if content is None else f": {_kind(content)}"
                parts.append(f"<p>{escape(status)}{gives}</p>")
            parts.append("</section>")
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        parts.append(f'<section id="{escape(name)}"><h2>{escape(name)}</h2>')
        parts.append(_paragraph(schema.get("description", "")))
        required = schema.get("required", ())
        parts.append(_table("key", [(key, one, key in required) for key, one in schema.get("properties", {}).items()]))
        parts.append("</section>")
    return "\n".join([*parts, "</main>\n</body>\n</html>\n"])


def _content(part: Schema) -> Schema | None:
    """The schema of a body or an answer, where there is one."""
    for kind in part.get("content", {}).values():
        schema: Schema = kind.get("schema", {})
        return schema
    return None


def _table(what: str, rows: list[tuple[str, Schema, bool]]) -> str:
    lines = [f"<table><tr><th>{what}</th><th>is</th><th>unless given</th></tr>"]
    for name, schema, is_required in rows:
        default = "must be given" if is_required else escape(repr(schema["default"])) if "default" in schema else ""
        lines.append(f"<tr><td><code>{escape(name)}</code></td><td>{_kind(schema)}</td><td>{default}</td></tr>")
    return "\n".join([*lines, "</table>"])


def _kind(schema: Schema) -> str:
    """What a value is, in words, with its bounds."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"<code>{escape(str(one))}</code>" for one in schema.get("enum", [schema.get("const")]))
    kind = escape(str(schema.get("type", "anything")))
    if kind == "array" and "items" in schema:
        kind = f"array of {_kind(schema['items'])}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        kind = f"object of {_kind(schema['additionalProperties'])}"
    least = next((schema[key] for key in ("minimum", "minLength", "minItems") if key in schema), None)
    most = next((schema[key] for key in ("maximum", "maxLength", "maxItems") if key in schema), None)
    bounds = [f"{word} {bound}" for word, bound in (("from", least), ("to", most)) if bound is not None]
    return f"{kind}, {' '.join(bounds)}" if bounds else kind


def _paragraph(text: str) -> str:
    return "\n".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part)
