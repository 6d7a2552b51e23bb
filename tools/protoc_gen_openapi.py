"""Contract toolchain: a protoc plugin that writes the OpenAPI document of the gateway.

Invariant: the document says nothing that is not in the protos, so it cannot disagree with what is served.
"""

import sys

from google.protobuf.compiler import plugin_pb2

from tools import openapi


def main() -> None:
    """Answer the CodeGeneratorRequest on stdin with the document, in a package so that it can be installed."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    ours = [name for name in request.file_to_generate if name.startswith("tollway/")]
    response = plugin_pb2.CodeGeneratorResponse()
    response.supported_features = plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    response.file.add(name="__init__.py", content=openapi.FOLDER_DOCSTRING)
    response.file.add(name="openapi.json", content=openapi.render(request.proto_file, ours))
    sys.stdout.buffer.write(response.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
