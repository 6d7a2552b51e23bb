"""Contract toolchain: the OpenAPI 3.1 document of the gateway, from the protos and their comments.

Invariant: every route of every RPC stands in it once, with the permission, the errors and the example that its comment
has; nothing in it is written by hand but the paragraph for newcomers.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from tools.contract import Contract, Rpc, Service, read
from tools.error_catalog import ENUM, PREFIX, split
from tools.examples import request_of
from tools.openapi_schema import SCHEMAS, WELL_KNOWN, Json, Schemas

STATUS: Final = "google.rpc.Status"
FOLDER_DOCSTRING: Final = '"""The OpenAPI document of the HTTP API, generated from proto/."""\n'
ABOUT: Final = """\
Every RPC of the gRPC contract over HTTP with JSON. Field names are those of the protos; 64-bit integers are strings.

**Authentication.** `Authorization: Bearer <key>`. An operator's key names the tenant in `Tollway-Tenant`.

**Repeating a request.** A change takes a `request_id` in its body, or an `Idempotency-Key` header: the same id and body
get the first answer again for 24 hours.

**Errors** are a `google.rpc.Status`: `details` has one `google.rpc.ErrorInfo` whose `reason` says what happened, a
`BadRequest` with the wrong fields, and a `RetryInfo` (also the `Retry-After` header) where trying again helps.

**Streams** answer with one JSON object a line: `{"result": …}`, and `{"error": …}` as the last line when they fail.
"""
# As google/rpc/code.proto maps the codes that errors have.
HTTP_OF: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
}
EVERY_CALL: Final = (
    "INVALID_ARGUMENT",
    "KEY_MISSING",
    "KEY_INVALID",
    "SCOPE_MISSING",
    "UNAVAILABLE",
    "INTERNAL",
)
QUERY_DEPTH_MAX: Final = 3


def render(files: Iterable[FileDescriptorProto], wanted: Iterable[str]) -> str:
    """The document as JSON."""
    kept, names = list(files), list(wanted)
    writer = Writer(read(kept, names), Schemas(kept, names))
    return json.dumps(writer.document(), ensure_ascii=False, indent=1) + "\n"


class Writer:
    """Writes the document of one contract."""

    def __init__(self, contract: Contract, schemas: Schemas) -> None:
        self._contract, self._schemas = contract, schemas
        reasons = next(enum for enum in contract.enums if enum.name == ENUM)
        self._codes = {v.name.removeprefix(PREFIX): code for v, code, _ in split(reasons.values)}

    def document(self) -> Json:
        """Everything."""
        paths: dict[str, Json] = {}
        for service in self._contract.services:
            for rpc in service.rpcs:
                for verb, path, operation in self._operations(service, rpc):
                    paths.setdefault(path, {})[verb] = operation
        return {
            "openapi": "3.1.0",
            "info": {"title": "Tollway", "version": "v1", "description": ABOUT},
            "servers": [{"url": "/"}],
            "security": [{"key": []}],
            "tags": [
                {"name": _short(service.name), "description": service.comment}
                for service in self._contract.services
            ],
            "paths": dict(sorted(paths.items())),
            "components": {
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
                "schemas": self._schemas.components() | {STATUS: _status()},
            },
        }

    def _operations(self, service: Service, rpc: Rpc) -> Iterator[tuple[str, str, Json]]:
        for i, route in enumerate(rpc.http):
            verb, _, path = route.partition(" ")
            operation: Json = {
                "operationId": f"{_short(service.name)}_{rpc.name}" + (f"_{i}" if i else ""),
                "tags": [_short(service.name)],
                "summary": re.split(r"(?<=\.)\s", rpc.comment, maxsplit=1)[0],
                "description": _description(rpc),
            }
            in_path = re.findall(r"\{(\w+)\}", path)
            example = request_of(rpc)
            has_body = verb in {"POST", "PATCH", "PUT"}
            left_out = self._decided_by(rpc.request, in_path)
            parameters = list(
                self._parameters(rpc.request, in_path, left_out, in_query=not has_body)
            )
            if parameters:
                operation["parameters"] = parameters
            if has_body:
                operation["requestBody"] = self._body(rpc, left_out, example)
            operation["responses"] = self._responses(rpc)
            yield verb.lower(), path, operation

    def _decided_by(self, request: str, in_path: list[str]) -> set[str]:
        """The fields that the path leaves no choice about: its own, and those that exclude one of them."""
        fields = self._schemas.messages[request][2].field
        taken = {f.oneof_index for f in fields if f.name in in_path and f.HasField("oneof_index")}
        beside = {f.name for f in fields if f.HasField("oneof_index") and f.oneof_index in taken}
        return set(in_path) | beside

    def _parameters(
        self, request: str, in_path: list[str], left_out: set[str], *, in_query: bool
    ) -> Iterator[Json]:
        fields = dict(self._schemas.fields(request))
        for name in in_path:
            yield _parameter(name, "path", fields[name], required=True)
        if in_query:
            for name, schema, required in self._query(request, left_out, ""):
                yield _parameter(name, "query", schema, required=required)

    def _query(
        self, message: str, left_out: set[str], prefix: str
    ) -> Iterator[tuple[str, Json, bool]]:
        """The fields of a request without body; those of its messages are named with points."""
        fields = {field.name: field for field in self._schemas.messages[message][2].field}
        for name, schema in self._schemas.fields(message):
            field = fields[name]
            inner = field.type_name.removeprefix(".")
            if name in left_out:
                continue
            if field.type == FieldDescriptorProto.TYPE_MESSAGE and inner not in WELL_KNOWN:
                if inner in self._schemas.messages and prefix.count(".") < QUERY_DEPTH_MAX:
                    yield from self._query(inner, set(), f"{prefix}{name}.")
                continue
            yield prefix + name, schema, not prefix and self._schemas.is_required(field)

    def _body(self, rpc: Rpc, left_out: set[str], example: Mapping[str, Any] | None) -> Json:
        schema: Json = {"$ref": SCHEMAS + rpc.request}
        if left_out:
            schema = _without(self._schemas.message(rpc.request), left_out)
        content: Json = {"schema": schema}
        if example is not None:
            content["example"] = {n: v for n, v in example.items() if n not in left_out}
        kind = "application/x-ndjson" if rpc.streams_in else "application/json"
        return {"required": True, "content": {kind: content}}

    def _responses(self, rpc: Rpc) -> Json:
        answer: Json = {"$ref": SCHEMAS + rpc.answer}
        kind = "application/json"
        if rpc.streams_out:
            kind = "application/x-ndjson"
            result = {"type": "object", "properties": {"result": answer}, "required": ["result"]}
            failed = {"properties": {"error": {"$ref": SCHEMAS + STATUS}}, "required": ["error"]}
            answer = {"oneOf": [result, {"type": "object"} | failed]}
        responses: Json = {"200": {"description": "OK", "content": {kind: {"schema": answer}}}}
        by_code: dict[int, list[str]] = {}
        for reason in dict.fromkeys((*_reasons(rpc), *EVERY_CALL)):
            by_code.setdefault(HTTP_OF[self._codes[reason]], []).append(reason)
        for code, reasons in sorted(by_code.items()):
            responses[str(code)] = _error(", ".join(f"`{reason}`" for reason in reasons))
        return responses | {"default": _error("Another error.")}


def _without(message: Json, left_out: set[str]) -> Json:
    """The schema of a message without the fields that the path has, and without the choice between them."""
    kept = {name: s for name, s in message["properties"].items() if name not in left_out}
    required = [name for name in message.get("required", ()) if name not in left_out]
    schema = {**message, "properties": kept, "required": required}
    if any(set(one["required"]) & left_out for one in message.get("oneOf", ())):
        del schema["oneOf"]
    return schema


def _parameter(name: str, place: str, schema: Json, *, required: bool) -> Json:
    shown = dict(schema)
    parameter: Json = {"name": name, "in": place, "description": shown.pop("description", "")}
    if required:
        parameter["required"] = True
    if place == "path":
        shown |= {"pattern": "^[^/:]+$", "minLength": 1}
    return parameter | {"schema": shown}


def _error(description: str) -> Json:
    schema = {"schema": {"$ref": SCHEMAS + STATUS}}
    return {"description": description, "content": {"application/json": schema}}


def _status() -> Json:
    return {
        "type": "object",
        "description": "Why a call failed.",
        "properties": {
            "code": {"type": "integer", "description": "The gRPC code."},
            "message": {"type": "string", "description": "For people."},
            "details": {
                "type": "array",
                "description": "google.rpc.ErrorInfo, and where they help BadRequest and RetryInfo.",
                "items": dict(WELL_KNOWN["google.protobuf.Any"]),
            },
        },
        "required": ["code", "message", "details"],
    }


def _description(rpc: Rpc) -> str:
    """The comment without the example, which stands in the request."""
    parts = re.split(r"\n(?=Permission: |Errors: |Example: )", rpc.comment)
    kept = [part for part in parts if not part.startswith(("Example: ", "Errors: "))]
    return "\n\n".join(part.strip() for part in kept)


def _reasons(rpc: Rpc) -> list[str]:
    line = re.search(r"^Errors: (.+?)\.$", rpc.comment, re.MULTILINE | re.DOTALL)
    return re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b|\bINTERNAL\b", line[1]) if line else []


def _short(service: str) -> str:
    return service.rpartition(".")[2]
