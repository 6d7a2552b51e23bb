"""The rim over HTTP: /openapi.json, and the same document as a page for people at /docs.

Invariant: both are made from the document that the contract generates, so neither can say what the other does not. The
page needs no script and nothing from another host.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

_REF: Final = "#/components/schemas/"
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}
# What a description may hold of Markdown.
_CODE: Final = re.compile(r"`([^`]+)`")
_STRONG: Final = re.compile(r"\*\*([^*]+)\*\*")


def reference_routes() -> list[web.RouteDef]:
    """The document and the page."""
    return [
        web.get("/openapi.json", _document_response),
        web.get("/docs", _page_response),
        web.get("/", _to_the_page),
    ]


async def _document_response(request: web.Request) -> web.Response:
    return web.Response(
        body=_document(), content_type="application/json", headers={"Cache-Control": "no-cache"}
    )


async def _page_response(request: web.Request) -> web.Response:
    return web.Response(text=_page(), content_type="text/html", headers=_HEADERS)


async def _to_the_page(request: web.Request) -> web.Response:
    raise web.HTTPFound("/docs")


@cache
def _document() -> bytes:
    return (importlib.resources.files("tollway_openapi") / "openapi.json").read_bytes()


@cache
def _page() -> str:
    """The page, made once: the document does not change while the process runs."""
    environment = Environment(
        loader=PackageLoader("server.gateway"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": _prose, "type": _type, "json": _json, "short": _short}
    document = json.loads(_document())
    operations: dict[str, list[Mapping[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            shown = {**operation, "path": path, "verb": verb.upper()}
            operations[operation["tags"][0]].append(shown)
    return environment.get_template("reference.html.j2").render(
        document=document, operations=operations, schemas=document["components"]["schemas"]
    )


def _prose(text: str) -> Markup:
    """Paragraphs, `code` and **emphasis** of a comment; everything else is text."""
    marked = _CODE.sub(r"<code>\1</code>", str(escape(text.strip())))
    marked = _STRONG.sub(r"<strong>\1</strong>", marked)
    return Markup("".join(f"<p>{part}</p>" for part in marked.split("\n\n")))  # noqa: S704 - escaped above


def _type(schema: Mapping[str, Any]) -> Markup:
    """A schema's type in a few words, with a link where it is a message or an enum."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return Markup('<a href="#{0}">{1}</a>').format(name, _short(name))
    if schema.get("type") == "array":
        return Markup("list of {}").format(_type(schema["items"]))
    values = schema.get("additionalProperties")
    if isinstance(values, Mapping):
        return Markup("map of {}").format(_type(values))
    if "oneOf" in schema:
        return Markup(" or ").join(_type(one) for one in schema["oneOf"])
    if "result" in (inner := schema.get("properties", {})):
        return Markup("lines of {}").format(_type(inner["result"]))
    return escape(schema.get("format") or schema.get("type") or "any")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _short(name: str) -> str:
    return name.rpartition(".")[2]
