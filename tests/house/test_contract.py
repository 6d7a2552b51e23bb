"""The proto is a promise: what each RPC must say, take and answer."""

import re
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory

from tests.house.tree import contract, descriptors
from tools.contract import Message, Rpc, Service
from tools.examples import line_of, request_of, words_of

SCOPES = ("read", "write", "admin", "operator")


def rpcs() -> Iterator[tuple[Service, Rpc]]:
    for service in contract().services:
        for rpc in service.rpcs:
            yield service, rpc


@pytest.fixture(scope="module")
def pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors().file:
        pool.Add(file)
    return pool


@pytest.fixture(scope="module")
def messages() -> dict[str, Message]:
    return {message.name: message for message in contract().messages}


def test_every_rpc_says_its_permission_its_errors_and_a_call() -> None:
    silent = [
        f"{service.name}/{rpc.name} lacks {word}"
        for service, rpc in rpcs()
        for word in ("Permission: ", "Errors: ", "Example: grpcurl ")
        if not re.search(f"^{word}", rpc.comment, re.MULTILINE)
    ]
    assert not silent


def test_every_permission_begins_with_a_scope() -> None:
    strange = [
        f"{service.name}/{rpc.name}: {said}"
        for service, rpc in rpcs()
        for said in re.findall(r"^Permission: (.+)$", rpc.comment, re.MULTILINE)
        if not re.match(rf"({'|'.join(SCOPES)})\b", said)
    ]
    assert not strange


def test_every_example_calls_its_own_rpc_with_a_request_that_parses(
    pool: descriptor_pool.DescriptorPool,
) -> None:
    for service, rpc in rpcs():
        line, body = line_of(rpc), request_of(rpc)
        assert line is not None, f"{service.name}/{rpc.name} has no example"
        assert body is not None
        assert words_of(line)[-1] == f"{service.name}/{rpc.name}"
        request = message_factory.GetMessageClass(pool.FindMessageTypeByName(rpc.request))
        json_format.ParseDict(body, request(), descriptor_pool=pool)


def test_every_rpc_has_its_own_request_and_response() -> None:
    names = [name for _, rpc in rpcs() for name in (rpc.request, rpc.answer)]
    assert len(names) == len(set(names))
    wrong = [
        f"{service.name}/{rpc.name}"
        for service, rpc in rpcs()
        if not rpc.request.endswith(f".{rpc.name}Request")
        or not rpc.answer.endswith(f".{rpc.name}Response")
    ]
    assert not wrong


def test_every_list_is_paged(messages: dict[str, Message]) -> None:
    unpaged = []
    for service, rpc in rpcs():
        if rpc.name.startswith("List"):
            request = {field.name for field in messages[rpc.request].fields}
            answer = {field.name for field in messages[rpc.answer].fields}
            if not {"page_size", "page_token"} <= request or "next_page_token" not in answer:
                unpaged.append(f"{service.name}/{rpc.name}")
    assert not unpaged


def test_every_mutation_takes_a_request_id(messages: dict[str, Message]) -> None:
    """Usage RPCs take none: each record has its own key."""
    reads = ("Get", "List", "Watch", "Preview", "Plan", "Explain", "Render", "Export")
    without = [
        f"{service.name}/{rpc.name}"
        for service, rpc in rpcs()
        if not rpc.name.startswith(reads)
        and "UsageService" not in service.name
        and "request_id" not in {field.name for field in messages[rpc.request].fields}
    ]
    assert not without


def test_every_rpc_has_a_route_of_its_own_over_http(messages: dict[str, Message]) -> None:
    """As CONTRIBUTING.md says: /v1/<nouns>, /v1/<nouns>/{<noun>_id}, and :verb for what is none of the five."""
    wrong, seen = [], set()
    for service, rpc in rpcs():
        name = f"{service.name}/{rpc.name}"
        fields = {field.name for field in messages[rpc.request].fields}
        if not rpc.http:
            wrong.append(f"{name} lacks option (google.api.http)")
        for route in rpc.http:
            verb, _, path = route.partition(" ")
            shape = f"{verb} {re.sub('{[^}]*}', '{}', path)}"
            if shape in seen:
                wrong.append(f"{name}: another RPC has {shape}")
            seen.add(shape)
            if not re.fullmatch(
                r"(/[a-z0-9_]+|/\{[a-z_]+\})+(:[a-zA-Z]+)?", path.removesuffix("/")
            ):
                wrong.append(f"{name}: {path} is no path of /v1/nouns/{{noun_id}}:verb")
            if not path.startswith("/v1/"):
                wrong.append(f"{name}: {path} does not begin with /v1/")
            if unknown := set(re.findall(r"\{(\w+)\}", path)) - fields:
                wrong.append(f"{name}: the request has no field {unknown}")
    assert not wrong


def test_every_payload_says_its_subject_and_no_subject_is_said_twice() -> None:
    payloads = [message for message in contract().messages if message.subject]
    assert payloads
    subjects = [message.subject for message in payloads]
    assert len(subjects) == len(set(subjects))
    assert [s for s in subjects if not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+){1,3}", s)] == []
