"""The rim: how services are registered.

Invariant: the cost of a call does not grow with the number of methods. grpc.aio keeps one waiting request for every
registered method and looks through all of them at each call, which took a quarter of the time of a small call here;
handlers that are found by name have one for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import grpc.aio


class HandlersByName:
    """Stands for the server where generated code adds its handlers; leaves out what would slow all calls down."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        # By full name, for those who call a method within this process.
        self.methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """The handlers of a service, found by their method's name."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """The same handlers again, which grpc.aio would keep a waiting request for, each."""
        self.methods |= {f"/{service}/{name}": handler for name, handler in handlers.items()}
