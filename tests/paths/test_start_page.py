"""docs/start.md does what it says: its lines run one after the other, in a shell, as somebody would who copies them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from billing.runtime.settings import Settings
from cli.up import Address, UpOptions, running

PAGE: Final = Path(__file__).parents[2] / "docs" / "start.md"
# The house runs already, grpcurl may be missing, and one command has no end.
LEFT_OUT: Final = ("make demo", ".venv/bin/tollway up", "grpcurl=", "call", "tollway events watch")
BLOCKS: Final = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands() -> Iterator[str]:
    """What the page has behind its prompts, with the lines that go on."""
    for block in BLOCKS.findall(PAGE.read_text()):
        yield from block.removeprefix("$ ").split("\n$ ")


def script(address: Address) -> str:
    """The page, with the addresses and the keys of this house."""
    lines = [line for line in commands() if not line.startswith(LEFT_OUT)]
    text = "\n".join(["set -eu", *lines])
    for said, meant in (
        ("http://127.0.0.1:7071", address.http),
        ("<the operator's key>", address.operator_key),
        ("--new-tenant Acme --test", "--new-tenant Acme --test | tee made"),
        ("<the tenant's secret>", "$(sed -n 's/^secret *//p' made)"),
    ):
        assert said in text
        text = text.replace(said, meant)
    return text


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")
async def test_the_start_page_ends_with_the_invoice_that_it_promises(tmp_path: Path) -> None:
    options = UpOptions(tmp_path / "data", grpc_port=0, http_port=0)
    async with running(options, Settings(), asyncio.Event()) as address:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", script(address), cwd=tmp_path,
            env={"PATH": path, "TOLLWAY_ADDRESS": address.grpc},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        told = (await process.communicate())[0].decode()

    assert process.returncode == 0, told
    assert "2 accepted, 0 duplicate" in told
    assert "9.20 + 49.00 = 58.20 USD" in PAGE.read_text()
    assert re.search(r"INV-000002 .* 58\.20 USD", told)
    assert "4600 x 0.002 = 9.2" in told
    assert "usage.reported" in told
    assert "ErrorInfo" not in told
    assert (tmp_path / "invoice.html").stat().st_size
    assert (tmp_path / "lines.csv").stat().st_size
