"""The composition root of `tollway up`: everything on one machine, with its data in one folder.

Invariant: what was started here is stopped here; the folder's keys survive restarts, so that what was encrypted
yesterday can be read today. The API server runs in this process and the workers in a child: both cores are used.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from billing.runtime.embedded import EmbeddedSettings, RunningServers, start_servers
from billing.runtime.settings import PREFIX, Settings
from billing.runtime.vault import new_key_text
from billing.services import keys
from billing.services.leases import forget_holders
from billing.services.migrations import migrate
from cli.children import Child, keep_child
from cli.compose import Parts, keep_clock, open_parts, serving

KEYS_FILE: Final = "keys.json"
READY_LINE: Final = "workers ready, figures at"
LOOPBACK: Final = "127.0.0.0/8,::1/128"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `tollway up` was asked for. Ports of 0 are chosen; `bus_url` replaces the embedded NATS."""

    data_dir: Path
    fresh: bool = False
    grpc_port: int = 7070
    http_port: int = 7071
    bus_url: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """Where everything is; what --ready-file holds."""

    grpc: str
    http: str
    workers_http: str
    nats: str
    database_url: str
    operator_key: str

    def to_json(self) -> str:
        """The text of the ready file."""
        names = ("grpc", "http", "workers_http", "nats", "database_url", "operator_key")
        return json.dumps({name: getattr(self, name) for name in names}, indent=2) + "\n"


@asynccontextmanager
async def running(
    options: UpOptions, base: Settings, stop: asyncio.Event
) -> AsyncIterator[Address]:
    """Starts everything, and stops it at the end of the block. Sets `stop` when an embedded server fails."""
    async with await start_servers(
        options.data_dir, EmbeddedSettings(), fresh=options.fresh
    ) as servers:
        settings = _settings(options, base, servers)
        await migrate(settings.database_url)
        async with (
            open_parts(settings) as parts,
            serving(parts) as ends,
            asyncio.TaskGroup() as group,
        ):
            # The folder is ours alone: a killed predecessor's leases need not run out first.
            await forget_holders(parts.worker)
            operator_key = await _operator_key(parts, servers.folder)
            ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

            def on_ready(figures_at: str) -> None:
                if not ready.done():
                    ready.set_result(figures_at)

            tasks = [
                group.create_task(keep_clock(parts, stop)),
                group.create_task(ends.grpc.keep_counts(stop)),
                group.create_task(keep_child(_workers(settings), on_ready, stop)),
                group.create_task(servers.watch()),
            ]
            workers_http = await ready
            yield Address(
                grpc=f"{settings.grpc_host}:{ends.grpc.port}",
                http=f"http://{settings.http_host}:{ends.http.port}",
                workers_http=workers_http,
                nats=settings.bus_url,
                database_url=settings.database_url,
                operator_key=operator_key,
            )
            stop.set()
            tasks[-1].cancel()


def _settings(options: UpOptions, base: Settings, servers: RunningServers) -> Settings:
    monitor = f"?monitor={servers.nats_monitor_url}"
    return replace(
        base,
        database_url=servers.database_url,
        bus_url=options.bus_url or servers.nats_url + monitor,
        secret_key=_kept_keys(servers.folder)["secret_key"],
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        # Here the receivers under development are on this machine.
        webhook_allow_networks=base.webhook_allow_networks or LOOPBACK,
    )


def _kept_keys(folder: Path) -> Mapping[str, str]:
    """The folder's own keys, made at its first start."""
    path = folder / KEYS_FILE
    if path.exists():
        kept: dict[str, str] = json.loads(path.read_text())
        return kept
    made = {"secret_key": new_key_text()}
    write_private(path, json.dumps(made))
    return made


async def _operator_key(parts: Parts, folder: Path) -> str:
    """The folder's operator key, made at its first start."""
    kept = dict(_kept_keys(folder))
    if "operator_key" not in kept:
        async with parts.worker.transaction() as tx:
            _, kept["operator_key"] = await keys.create_operator_key(
                tx, "tollway up", now=parts.clock.now()
            )
        write_private(folder / KEYS_FILE, json.dumps(kept))
    return kept["operator_key"]


def write_private(path: Path, text: str) -> None:
    """Writes a file whole, readable by nobody else."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _workers(settings: Settings) -> Child:
    return Child("the workers' process", ("work", "all"), _environment(settings), READY_LINE)


def _environment(settings: Settings) -> dict[str, str]:
    """The child's environment: ours, with the settings that were decided here."""
    decided = {
        "database_url": settings.database_url,
        "bus_url": settings.bus_url,
        "secret_key": settings.secret_key,
        "webhook_allow_networks": settings.webhook_allow_networks,
        "http_port": "0",
    }
    return dict(os.environ) | {f"{PREFIX}{name.upper()}": value for name, value in decided.items()}
