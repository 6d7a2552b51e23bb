"""Contract toolchain: a protoc plugin that writes the reference pages from the protos' comments.

Invariant: a page says nothing that is not in the protos, so it cannot disagree with them.
"""

import sys

from google.protobuf.compiler import plugin_pb2

from tools import api_reference, error_catalog, event_catalog
from tools.contract import read


def main() -> None:
    """Answer the CodeGeneratorRequest on stdin with the pages."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    ours = [name for name in request.file_to_generate if name.startswith("tollway/")]
    contract = read(request.proto_file, ours)
    response = plugin_pb2.CodeGeneratorResponse()
    response.supported_features = plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    response.file.add(name="events.md", content=event_catalog.render(contract))
    response.file.add(name="errors.md", content=error_catalog.render(contract))
    response.file.add(name="api.md", content=api_reference.render(contract))
    sys.stdout.buffer.write(response.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
