"""The published schema of pricing cases says what the checker reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from billing.domain.cases.run import MODELS, run_case

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "pricing-cases.schema.json").read_text())
PAGE = (ROOT / "docs" / "pricing-cases.md").read_text()
CASES = [
    case
    for name in ("pricing.json", "more_pricing.json")
    for case in json.loads((ROOT / "tests" / "domain" / "cases" / name).read_text())["cases"]
]


def rules() -> dict[str, dict[str, Any]]:
    """What the schema says of config and usage, by model."""
    found = {}
    for rule in SCHEMA["$defs"]["case"]["allOf"]:
        for model in rule["if"]["properties"]["model"]["enum"]:
            found[model] = rule["then"]["properties"]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_every_case_of_ours_is_valid(case: dict[str, Any]) -> None:
    jsonschema.validate({"cases": [case]}, SCHEMA)


def test_schema_page_and_checker_know_the_same_models() -> None:
    assert set(rules()) == set(MODELS)
    assert all(f"`{model}`" in PAGE for model in MODELS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_key_that_the_schema_does_not_know_is_unsupported(case: dict[str, Any]) -> None:
    wrong = {**case, "config": {**(case.get("config") or {}), "surprise": "1"}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"cases": [wrong]}, SCHEMA)
    assert type(run_case(wrong)).__name__ == "Unsupported"
