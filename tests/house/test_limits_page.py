"""docs/limits.md says what the code does: each default, and every reason that a limit gives."""

import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Final

from billing.runtime.settings import PREFIX, Settings
from tests.house.test_errors import promised
from tests.house.tree import ROOT

PAGE: Final = (ROOT / "docs/limits.md").read_text(encoding="utf-8")
# What is no limit of a call: ports, pools of the process, how long things are kept, and the pace of workers.
NO_LIMITS: Final = {
    "grpc_port", "http_port", "database_connections_max", "stop_grace_s", "rating_interval_s", "log_retention_days",
    "inbox_retention_days", "bus_retention_hours", "invoice_grace_s",
}  # fmt: skip


def rows() -> Iterator[tuple[str, str, str]]:
    """The default, what sets it, and the reason, of each row."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[2].startswith("`"):
            yield cells[1], cells[2].strip("`"), cells[3]


def value_of(place: str) -> float:
    if place.startswith(PREFIX):
        return float(getattr(Settings(), place.removeprefix(PREFIX).lower()))
    module, _, name = place.rpartition(".")
    return float(getattr(importlib.import_module(module), name))


def test_every_default_on_the_page_is_that_of_the_code() -> None:
    found = list(rows())
    assert len(found) > 20
    wrong = {
        place: (default, value_of(place))
        for default, place, _ in found
        if float(default) != value_of(place)
    }
    assert not wrong


def test_every_setting_that_limits_calls_is_on_the_page() -> None:
    settings = {
        PREFIX + field.name.upper()
        for field in dataclasses.fields(Settings)
        if "most" in field.metadata and field.name not in NO_LIMITS
    }
    assert settings == {place for _, place, _ in rows() if place.startswith(PREFIX)}


def test_every_reason_of_an_exhausted_limit_is_on_the_page() -> None:
    exhausted = {reason for reason, code in promised().items() if code == "RESOURCE_EXHAUSTED"}
    named = set(re.findall(r"`([A-Z_]+)`", " ".join(reason for _, _, reason in rows())))
    assert exhausted <= named
    assert named <= set(promised()) | {"RESOURCE_EXHAUSTED"}
