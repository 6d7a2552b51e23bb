"""Every path's ground: PostgreSQL 18 and nats-server inside `tollway up` and inside the tests.

`start_servers(folder, EmbeddedSettings())` gives `RunningServers` with the addresses.

Invariant: the servers are real, durable unless told otherwise, closed to strangers, and never outlive
a clean stop; one folder has one owner.
"""

from billing.runtime.embedded.errors import (
    BinaryMissing,
    EmbeddedError,
    FolderInUse,
    FolderUnusable,
    NoWayToDropRoot,
    PortInUse,
    ServerFailed,
)
from billing.runtime.embedded.servers import RunningServers, Server, start_servers
from billing.runtime.embedded.settings import EmbeddedSettings, Way

__all__ = [
    "BinaryMissing",
    "EmbeddedError",
    "EmbeddedSettings",
    "FolderInUse",
    "FolderUnusable",
    "NoWayToDropRoot",
    "PortInUse",
    "RunningServers",
    "Server",
    "ServerFailed",
    "Way",
    "start_servers",
]
