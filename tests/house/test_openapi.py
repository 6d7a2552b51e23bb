"""The OpenAPI document: valid, complete, and true to the contract."""

import json
import re
from functools import cache
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from openapi_spec_validator import OpenAPIV31SpecValidator

from server.gateway.routes import Route, routes_of
from server.registry import SERVICES
from tests.house.tree import ROOT


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "gen/openapi/openapi.json").read_text("utf-8"))
    return found


def routes() -> list[Route]:
    return list(routes_of(SERVICES))


def test_the_document_is_valid_openapi() -> None:
    assert [str(error.message) for error in OpenAPIV31SpecValidator(document()).iter_errors()] == []


def test_every_route_that_is_served_is_in_the_document_and_no_other() -> None:
    served = {(route.template, route.verb.lower()) for route in routes()}
    written = {(path, verb) for path, verbs in document()["paths"].items() for verb in verbs}
    assert served == written


def test_every_operation_has_a_name_of_its_own_a_summary_and_its_errors() -> None:
    operations = [each for verbs in document()["paths"].values() for each in verbs.values()]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names))
    poor = [
        each["operationId"]
        for each in operations
        if not each["summary"].endswith(".") or "401" not in each["responses"]
    ]
    assert not poor


@pytest.mark.parametrize("route", [r for r in routes() if r.has_body], ids=lambda r: r.method)
def test_every_example_is_a_request_that_parses(route: Route) -> None:
    operation = document()["paths"][route.template][route.verb.lower()]
    (content,) = operation["requestBody"]["content"].values()
    request = message_factory.GetMessageClass(
        descriptor_pool.Default().FindMessageTypeByName(route.kind.full_name)
    )()
    json_format.ParseDict(content["example"], request)


def test_every_field_of_a_message_is_in_its_schema_under_the_name_of_the_proto() -> None:
    pool = descriptor_pool.Default()
    schemas = document()["components"]["schemas"]
    for route in routes():
        for name in (route.kind.full_name, route.answer.DESCRIPTOR.full_name):
            fields = {field.name for field in pool.FindMessageTypeByName(name).fields}
            assert set(schemas[name]["properties"]) == fields


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document())
    wanted = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert wanted <= set(document()["components"]["schemas"])
