"""Every path's ground: the ports of the embedded servers.

Invariant: a port that was given is used or refused by name; one that was chosen stays with the folder
as long as nobody else has taken it.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection
from dataclasses import replace

from billing.runtime.embedded.errors import EmbeddedError, PortInUse
from billing.runtime.embedded.settings import EmbeddedSettings
from billing.runtime.embedded.state import State

# Below the range from which Linux takes the near ends of outgoing connections (32768 and up), so
# that no client of anything happens to sit on a server's port between two runs.
_CHOSEN_FROM = range(20_000, 32_000)
_TRIES_MAX = 200


def settle(server: str, *, given: int | None, kept: int, taken: Collection[int]) -> int:
    """The port for `server`: the given one, else the kept one if free, else a new free one.

    Raises PortInUse when a given port is taken.
    """
    if given is not None:
        if not is_free(given):
            raise PortInUse(server, given)
        return given
    if kept and kept not in taken and is_free(kept):
        return kept
    for _ in range(_TRIES_MAX):
        # Not from `random`: a process that seeds it would try the same ports as its twin.
        port = secrets.choice(_CHOSEN_FROM)
        if port not in taken and is_free(port):
            return port
    raise EmbeddedError(f"No free port for {server} was found on 127.0.0.1; stop some servers.")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As the servers do: connections of an earlier run that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def settle_all(settings: EmbeddedSettings, kept: State) -> State:
    """`kept` with a port for each listener. Raises PortInUse when a given port is taken."""
    given = (settings.postgres_port, settings.nats_port, settings.nats_monitor_port)
    taken = {port for port in given if port is not None}
    postgres = settle("PostgreSQL", given=given[0], kept=kept.postgres_port, taken=taken)
    taken.add(postgres)
    nats = settle("NATS", given=given[1], kept=kept.nats_port, taken=taken)
    taken.add(nats)
    monitor = settle("NATS' monitoring", given=given[2], kept=kept.nats_monitor_port, taken=taken)
    return replace(kept, postgres_port=postgres, nats_port=nats, nats_monitor_port=monitor)
