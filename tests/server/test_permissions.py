"""Who may call what: the contract, the table and the server say the same, and the caller is asked first."""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from tollway.tenant.v1 import tenant_service_pb2 as tenant_pb

from billing.services.keys import Scope
from server.permissions import PERMISSIONS, Permission
from server.registry import PAYLOADS, SERVICES
from tests.house.tree import contract
from tests.server.rim import REVOKE_KEY, Rim, methods

RANKS = (Scope.READ, Scope.WRITE, Scope.ADMIN)


def test_every_rpc_of_the_contract_is_registered_and_has_a_permission() -> None:
    promised = {
        f"/{service.name}/{rpc.name}" for service in contract().services for rpc in service.rpcs
    }
    assert promised == set(PERMISSIONS) == {method for method, _, _ in methods()}


def test_permissions_are_those_that_the_contract_tells() -> None:
    told = {
        f"/{service.name}/{rpc.name}": _permission(rpc.comment)
        for service in contract().services
        for rpc in service.rpcs
    }
    assert told == PERMISSIONS


def test_every_rpc_has_a_method_of_ours() -> None:
    """A method that a servicer leaves out would be inherited, and answer UNIMPLEMENTED."""
    inherited = [
        f"{name}/{method.name}"
        for name, (_, servicer) in SERVICES.items()
        for method in descriptor_pool.Default().FindServiceByName(name).methods
        if method.name not in vars(servicer)
    ]
    assert not inherited


def test_every_payload_of_an_event_is_imported_for_reflection() -> None:
    told = {message.name for message in contract().messages if message.subject}
    known = {
        message.full_name
        for module in PAYLOADS
        for message in module.DESCRIPTOR.message_types_by_name.values()
    }
    assert told <= known


async def test_a_key_without_the_scope_is_refused_before_anything_else(rim: Rim) -> None:
    """Walks methods by scopes with a request that is empty, so mostly invalid: permission is told first."""
    wrong = []
    for method, permission in PERMISSIONS.items():
        for scope in RANKS:
            code, reason = await _outcome(rim, method, rim.acme.keys[scope])
            expected: tuple[object, str] | None = None
            if permission.scope is None:
                expected = (grpc.StatusCode.PERMISSION_DENIED, "OPERATOR_REQUIRED")
            elif RANKS.index(scope) < RANKS.index(permission.scope):
                expected = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
            if expected and (code, reason) != expected:
                wrong.append((method, scope, reason))
            if not expected and code in _NEVER:
                wrong.append((method, scope, reason))
    assert not wrong


async def test_an_operator_may_call_everything_for_a_tenant_that_it_names(rim: Rim) -> None:
    wrong = []
    for method, permission in PERMISSIONS.items():
        named, reason = await _outcome(
            rim, method, rim.operator, metadata=(("tollway-tenant", rim.acme.name),)
        )
        if named in _NEVER:
            wrong.append((method, reason))
        refusal = await _refusal_fields(rim, method)
        if ("tollway-tenant" in refusal) is permission.without_tenant:
            wrong.append((method, str(refusal)))
    assert not wrong


async def test_what_does_not_exist_is_told_only_to_those_who_may_look(rim: Rim) -> None:
    request = tenant_pb.RevokeApiKeyRequest(api_key_id="key_nothing")
    refused = await rim.refused(REVOKE_KEY, request, rim.acme.keys[Scope.WRITE])
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "SCOPE_MISSING",
    )
    assert refused.metadata == {"scope": "admin"}
    assert (await rim.refused(REVOKE_KEY, request)).reason == "INVALID_ID"


_NEVER = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
)


async def _outcome(
    rim: Rim, method: str, key: str, request: Any = None, **options: Any
) -> tuple[grpc.StatusCode, str]:
    try:
        await rim.call(method, request, key, **options)
    except grpc.aio.AioRpcError:
        refusal = await rim.refused(method, request, key, **options)
        return refusal.code, refusal.reason
    return grpc.StatusCode.OK, ""


async def _refusal_fields(rim: Rim, method: str) -> set[str]:
    try:
        await rim.call(method, None, rim.operator)
    except grpc.aio.AioRpcError:
        return set((await rim.refused(method, None, rim.operator)).fields)
    return set()


def _permission(comment: str) -> Permission:
    """`Permission:` as the proto writes it: the least scope of a tenant's key, and what operators may do."""
    said = re.search(r"^Permission: (.+)$", comment, re.MULTILINE)
    assert said is not None
    scopes = re.findall(r"\b(read|write|admin)\b", said[1])
    assert len(scopes) <= 1, said[1]
    return Permission(Scope(scopes[0]) if scopes else None, without_tenant="operator" in said[1])
