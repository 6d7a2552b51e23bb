"""The rim: the services that every gRPC tool knows: health, reflection and channelz.

Invariant: what is served can be asked for: reflection lists and describes each service, and health answers for it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from server.handlers import HandlersByName

HEALTH: Final = "grpc.health.v1.Health"
CHANNELZ: Final = "grpc.channelz.v1.Channelz"
# Reflection speaks both versions; their messages are the same on the wire.
REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"
REFLECTION_V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"


async def add_standard_services(
    server: grpc.aio.Server, services: Collection[str], *, with_channelz: bool
) -> health.aio.HealthServicer:
    """Registers health (for the process and for each of `services`), reflection and channelz; returns health."""
    by_name: Any = HandlersByName(server)
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, by_name)
    for name in ("", *services):
        await state.set(name, health_pb2.HealthCheckResponse.SERVING)
    shown = [*services, HEALTH, REFLECTION_V1ALPHA, REFLECTION_V1]
    if with_channelz:
        channelz.add_channelz_servicer(by_name)
        shown.append(CHANNELZ)
    reflection.enable_server_reflection(shown, by_name)
    _add_reflection_v1(server, shown)
    return state


def _add_reflection_v1(server: grpc.aio.Server, shown: list[str]) -> None:
    _describe_reflection_v1()
    servicer = reflection.aio.ReflectionServicer(shown)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((methods,))


def _describe_reflection_v1() -> None:
    """Makes the descriptors of version 1 from those of v1alpha, the only ones that the library ships.

    Without them `grpcurl describe` lists the service and then fails on it. Adding the same file again changes nothing.
    """
    alpha = descriptor_pb2.FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    version_1 = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(version_1.SerializeToString(deterministic=True))
