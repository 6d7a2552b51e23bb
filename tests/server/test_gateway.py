"""The API over HTTP: the same methods, rules and errors as over gRPC, in JSON."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from billing.services.keys import Scope
from server.gateway.cors import Cors
from server.gateway.gateway import Gateway
from server.gateway.routes import routes_of
from server.http import HttpApi, start_http
from server.registry import SERVICES
from tests.server.rim import Rim

CONSOLE = "https://console.example.com"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def info(self) -> Mapping[str, Any]:
        """The ErrorInfo: every error has exactly one."""
        infos = [d for d in self.json["details"] if d["@type"].endswith("google.rpc.ErrorInfo")]
        assert len(infos) == 1
        assert infos[0]["domain"] == "tollway"
        found: Mapping[str, Any] = infos[0]
        return found

    @property
    def wrong_fields(self) -> Mapping[str, str]:
        return {
            violation["field"]: violation["description"]
            for detail in self.json["details"]
            for violation in detail.get("field_violations", ())
        }


@dataclass(frozen=True, slots=True)
class Web:
    """A client of the HTTP API, with the key of acme's administrator unless told otherwise."""

    session: aiohttp.ClientSession
    address: str
    key: str

    async def ask(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | io.BytesIO | None = None,
        key: str | None = None,
    ) -> Answer:
        known = {"Authorization": f"Bearer {self.key if key is None else key}"}
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            known["Content-Type"] = "application/json"
        async with self.session.request(
            verb, self.address + path, data=data, headers=known | dict(headers or {})
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def open_web(rim: Rim, cors: Cors | None = None) -> AsyncIterator[Web]:
    grpc = rim.server
    limits = grpc.limits
    gateway = Gateway(grpc.methods, tuple(routes_of(SERVICES)), limits.deadlines)
    server = await start_http("127.0.0.1", 0, rim.registry, {}, HttpApi(gateway, cors or Cors()))
    try:
        async with aiohttp.ClientSession() as session:
            yield Web(session, f"http://127.0.0.1:{server.port}", rim.acme.keys[Scope.ADMIN])
    finally:
        await server.stop()


@pytest.fixture
async def web(rim: Rim) -> AsyncIterator[Web]:
    async with open_web(rim) as opened:
        yield opened


async def test_what_is_made_over_http_is_read_over_http_by_id_and_by_key(web: Web) -> None:
    made = await web.ask(
        "POST",
        "/v1/customers",
        {"external_id": "UA", "display_name": "United", "time_zone": "Europe/Vienna"},
    )
    assert made.status == 200, made.body
    customer = made.json["customer"]
    assert customer["id"].startswith("cus_")
    by_id = await web.ask("GET", f"/v1/customers/{customer['id']}")
    by_key = await web.ask("GET", "/v1/customers:lookup?external_id=UA")
    assert by_id.json == by_key.json == {"customer": customer}


async def test_every_rpc_has_a_route_that_reaches_it(web: Web) -> None:
    """Without a key each is refused for lacking one, so each was found."""
    for route in routes_of(SERVICES):
        path = route.template
        for name in route.variables:
            path = path.replace(f"{{{name}}}", "x")
        answer = await web.ask(
            route.verb, path, headers={"Authorization": ""}, body={} if route.has_body else None
        )
        reason = answer.json["details"][0]["reason"]
        assert (answer.status, reason) == (401, "KEY_MISSING"), (route.verb, path, answer.body)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_who_calls_is_asked_before_what_is_asked(web: Web, rim: Rim) -> None:
    """A stranger learns nothing of what a path, a query or a body should be; nor does a key without the scope."""
    wrong: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/customers?nothing=1", {}),
        ("GET", "/v1/customers?page_size=many", {}),
        ("GET", "/v1/events:watch?nothing=1", {}),
        ("GET", "/v1/exports/invoices.csv?nothing=1", {}),
        ("POST", "/v1/meters?key=a", {"body": {}}),
        ("POST", "/v1/meters", {"data": b"{"}),
        ("POST", "/v1/meters", {"data": io.BytesIO(b" " * (5 * 1024 * 1024))}),
    ]
    for verb, path, given in wrong:
        stranger = await web.ask(verb, path, headers={"Authorization": ""}, **given)
        assert (stranger.status, stranger.info["reason"]) == (401, "KEY_MISSING"), path
    reader = {"Authorization": f"Bearer {rim.acme.keys[Scope.READ]}"}
    refused = await web.ask("POST", "/v1/meters?key=a", {}, headers=reader)
    assert (refused.status, refused.info["reason"]) == (403, "SCOPE_MISSING")


async def test_a_wrong_field_is_named_as_over_grpc(web: Web) -> None:
    answer = await web.ask(
        "POST", "/v1/meters", {"key": "Not A Key", "aggregation": "AGGREGATION_SUM"}
    )
    assert answer.status == 400
    assert answer.info["reason"] == "INVALID_ARGUMENT"
    assert "key" in answer.wrong_fields


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"key": "a", "key": "b"}', "twice"),
        (
            b'{"unknown": 1}',
            "unknown: there is no such field; it has request_id, key, display_name",
        ),
        (b'{"filters": [{"x": 1}]}', "filters[0].x: there is no such field; it has "),
        (b'{"display_name": 1}', "display_name: must be a text in quotation marks"),
        (b'{"filters": {}}', "filters: must be a list, each of it an object"),
        (b'{"aggregation": "SUM"}', "aggregation: must be one of AGGREGATION_COUNT, "),
        (b'{"key": NaN}', "no number of JSON"),
        (b'{"key": 1e999}', "too large for a number"),
        (b'{"key": "\\ud800"}', "key: must be a text"),
        (b"\xff\xfe", "not JSON"),
        (b'{"key":' * 2000, "not JSON"),
    ],
)
async def test_a_body_that_is_no_request_is_refused_with_the_reason(
    web: Web, data: bytes, said: str
) -> None:
    answer = await web.ask("POST", "/v1/meters", data=data)
    assert answer.status == 400
    assert answer.info["reason"] == "INVALID_ARGUMENT"
    assert said in answer.json["message"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/invoices?page_size=many", "page_size"),
        ("/v1/invoices?unknown=1", "unknown"),
        ("/v1/invoices?status=INVOICE_STATUS_OPEN&status=INVOICE_STATUS_PAID", "status"),
        ("/v1/events:watch?from_beginning=yes", "from_beginning"),
        (
            "/v1/events?time_range.start=2026-01-01T00:00:00Z&time_range.start.seconds=5",
            "time_range.start.seconds",
        ),
    ],
)
async def test_a_query_that_is_no_request_is_refused_by_field(
    web: Web, path: str, field: str
) -> None:
    answer = await web.ask("GET", path)
    assert answer.status == 400, answer.body
    assert field in (answer.wrong_fields or {"": ""})


async def test_the_path_rules_over_a_body_that_says_otherwise(web: Web) -> None:
    answer = await web.ask("POST", "/v1/webhooks/whe_a:enable", {"endpoint_id": "whe_b"})
    assert answer.status == 400
    assert "endpoint_id" in answer.wrong_fields


async def test_another_tenants_object_is_not_found(web: Web, rim: Rim) -> None:
    customer = await rim.customer("UA", rim.other.keys[Scope.ADMIN])
    answer = await web.ask("GET", f"/v1/customers/{customer.id}")
    assert (answer.status, answer.info["reason"]) == (404, "CUSTOMER_NOT_FOUND")


async def test_a_key_without_the_scope_is_forbidden_and_an_operator_names_the_tenant(
    web: Web, rim: Rim
) -> None:
    body = {"external_id": "UA", "display_name": "United"}
    refused = await web.ask("POST", "/v1/customers", body, key=rim.acme.keys[Scope.READ])
    assert (refused.status, refused.info["reason"]) == (403, "SCOPE_MISSING")
    made = await web.ask(
        "POST", "/v1/customers", body, key=rim.operator, headers={"Tollway-Tenant": rim.acme.name}
    )
    assert made.status == 200


async def test_an_idempotency_key_is_the_request_id(web: Web) -> None:
    body = {"external_id": "UA", "display_name": "United"}
    headers = {"Idempotency-Key": "order-1"}
    first = await web.ask("POST", "/v1/customers", body, headers=headers)
    again = await web.ask("POST", "/v1/customers", body, headers=headers)
    assert first.body == again.body
    other = await web.ask("POST", "/v1/customers", body | {"external_id": "DL"}, headers=headers)
    assert (other.status, other.info["reason"]) == (409, "REQUEST_ID_REUSED")


async def test_paths_methods_and_bodies_that_are_not_there_are_refused_in_json(web: Web) -> None:
    nowhere = await web.ask("GET", "/v1/nowhere")
    assert (nowhere.status, nowhere.info["reason"]) == (404, "ROUTE_NOT_FOUND")
    wrong = await web.ask("DELETE", "/v1/invoices")
    assert (wrong.status, wrong.info["reason"]) == (405, "METHOD_NOT_ALLOWED")
    assert "GET" in wrong.headers["Allow"]
    form = await web.ask(
        "POST",
        "/v1/meters",
        data=b"key=a",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert (form.status, form.info["reason"]) == (415, "NOT_JSON")
    large = await web.ask("POST", "/v1/meters", data=io.BytesIO(b" " * (5 * 1024 * 1024)))
    assert (large.status, large.info["reason"]) == (413, "BODY_TOO_LARGE")
    query = await web.ask("POST", "/v1/meters?key=a", {})
    assert (query.status, query.info["reason"]) == (400, "INVALID_ARGUMENT")


async def test_a_colon_within_a_path_is_part_of_an_id_that_is_then_refused(web: Web) -> None:
    answer = await web.ask("GET", "/v1/customers/a%3Ab%0D/discounts")
    assert (answer.status, answer.info["reason"]) == (400, "INVALID_ID")


async def test_a_call_that_takes_too_long_ends_and_is_told(web: Web, rim: Rim) -> None:
    async with rim.owner() as owner, owner.transaction():
        await owner.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        answer = await web.ask(
            "GET", "/v1/customers:lookup?external_id=UA", headers={"Grpc-Timeout": "100m"}
        )
    assert (answer.status, answer.info["reason"]) == (504, "DEADLINE_PASSED")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_usage_streams_in_and_its_answers_out_line_by_line(web: Web) -> None:
    def line(key: str) -> bytes:
        fields = {"idempotency_key": key, "meter_key": "none", "external_customer_id": "UA"}
        at = {"timestamp": "2026-01-01T00:00:00Z", "quantity": "1"}
        return json.dumps({"records": [fields | at]}).encode() + b"\n"

    body = line("a") + b"\n" + line("b") + b'{"records": 7}\n' + line("never read")
    answer = await web.ask("POST", "/v1/usage:stream", data=body)
    assert answer.status == 200, answer.body
    lines = [json.loads(text) for text in answer.body.splitlines()]
    results = [one["result"]["results"][0] for one in lines[:-1]]
    assert [one["outcome"] for one in results] == ["RECORD_OUTCOME_REJECTED"] * 2
    assert lines[-1]["error"]["details"][0]["reason"] == "INVALID_ARGUMENT"
    assert len(lines) == 3

    empty = await web.ask("POST", "/v1/usage:stream", data=b'{"records": []}\n')
    assert (empty.status, empty.info["reason"]) == (400, "INVALID_ARGUMENT")
    headers = {"Content-Type": "text/plain"}
    other = await web.ask("POST", "/v1/usage:stream", data=b"x", headers=headers)
    assert (other.status, other.info["reason"]) == (415, "NOT_JSON")
    nobody = await web.ask("POST", "/v1/usage:stream", data=line("a"), key="")
    assert nobody.status == 401
    huge = await web.ask("POST", "/v1/usage:stream", data=io.BytesIO(b" " * 5_000_000))
    assert (huge.status, huge.info["reason"]) == (413, "BODY_TOO_LARGE")


async def test_a_download_that_takes_too_long_is_told_so(web: Web) -> None:
    answer = await web.ask("GET", "/v1/exports/invoices.csv", headers={"Grpc-Timeout": "1n"})
    assert (answer.status, answer.info["reason"]) == (504, "DEADLINE_PASSED")


async def test_a_stream_is_lines_of_json_and_ends_when_the_client_leaves(
    web: Web, rim: Rim
) -> None:
    headers = {"Authorization": f"Bearer {web.key}"}
    async with web.session.get(
        f"{web.address}/v1/events:watch?from_beginning=true", headers=headers
    ) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/x-ndjson"
        line = json.loads(await answer.content.readline())
    assert "cursor" in line["result"]

    def cancelled() -> float | None:
        return rim.registry.get_sample_value(
            "tollway_rpc_calls_total",
            {"method": "/tollway.event.v1.EventService/WatchEvents", "code": "CANCELLED"},
        )

    async with asyncio.timeout(10):
        while not cancelled():  # noqa: ASYNC110 - only the counter tells
            await asyncio.sleep(0)


async def test_a_stream_that_is_refused_has_the_code_of_its_error(web: Web) -> None:
    answer = await web.ask("GET", "/v1/events:watch?cursor=nonsense")
    assert (answer.status, answer.info["reason"]) == (400, "CURSOR_INVALID")


async def test_no_page_of_another_origin_may_call_unless_it_is_named(web: Web, rim: Rim) -> None:
    headers = {"Origin": CONSOLE}
    preflight = await web.ask("OPTIONS", "/v1/customers", headers=headers)
    assert preflight.status == 405
    assert "Access-Control-Allow-Origin" not in preflight.headers
    async with open_web(rim, Cors(frozenset({CONSOLE}))) as opened:
        preflight = await opened.ask("OPTIONS", "/v1/customers", headers=headers)
        assert preflight.status == 204
        assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
        answer = await opened.ask("GET", "/v1/invoices", headers=headers)
        assert answer.headers["Access-Control-Allow-Origin"] == CONSOLE
        strange = await opened.ask(
            "GET", "/v1/invoices", headers={"Origin": "https://evil.example"}
        )
        assert "Access-Control-Allow-Origin" not in strange.headers


async def test_the_reference_is_a_page_that_names_every_method_and_loads_nothing_else(
    web: Web,
) -> None:
    answer = await web.ask("GET", "/docs")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = answer.body.decode()
    for route in routes_of(SERVICES):
        assert f">{route.template}</div>" in page
    assert "<script" not in page
    document = await web.ask("GET", "/openapi.json")
    assert document.json["openapi"] == "3.1.0"


async def test_a_fault_of_ours_is_internal_with_a_reference_and_nothing_else(
    web: Web, rim: Rim
) -> None:
    async with rim.owner() as owner:
        await owner.execute("ALTER TABLE customers RENAME COLUMN external_id TO gone")
    answer = await web.ask("GET", "/v1/customers:lookup?external_id=UA")
    assert (answer.status, answer.info["reason"]) == (500, "INTERNAL")
    assert answer.info["metadata"]["reference_id"] in answer.json["message"]
    assert "external_id" not in answer.body.decode()
