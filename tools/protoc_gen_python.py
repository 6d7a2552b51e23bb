"""Contract toolchain: a protoc plugin that generates the Python messages and gRPC classes.

grpcio-tools keeps its generators inside `grpc_tools.protoc.main()`, where buf cannot reach them.
This plugin hands buf's descriptors to that function and answers with the files it wrote.

Invariant: the output is a function of the request alone; nothing is read from the working folder.
"""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

INIT: Final = '"""Generated from the protos; do not edit."""\n'


def main() -> None:
    """Answer the CodeGeneratorRequest on stdin with a CodeGeneratorResponse on stdout."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(respond(request).SerializeToString(deterministic=True))


def respond(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Generate `*_pb2.py`, `*_pb2_grpc.py` where there is a service, and the packages' markers."""
    response = plugin_pb2.CodeGeneratorResponse()
    response.supported_features = (
        plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | plugin_pb2.CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
    )
    response.minimum_edition = 998  # EDITION_PROTO2
    response.maximum_edition = 1000  # EDITION_2023
    wanted = list(request.file_to_generate)
    serving = [f.name for f in request.proto_file if f.name in set(wanted) and f.service]
    with tempfile.TemporaryDirectory(prefix="tollway-protoc-") as folder:
        root = Path(folder)
        descriptors = root / "descriptors.binpb"
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = root / "out"
        out.mkdir()
        run_protoc(descriptors, [f"--python_out={out}"], wanted)
        run_protoc(descriptors, [f"--grpc_python_out={out}"], serving)
        for path in sorted(out.rglob("*.py")):
            response.file.add(
                name=path.relative_to(out).as_posix(), content=path.read_text(encoding="utf-8")
            )
    for name, content in package_markers(wanted):
        response.file.add(name=name, content=content)
    return response


def run_protoc(descriptors: Path, options: list[str], files: list[str]) -> None:
    """Run the compiler inside grpcio-tools; its own messages go to stderr, which buf shows."""
    if not files:
        return
    code = protoc.main(["protoc", f"--descriptor_set_in={descriptors}", *options, *files])
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code} for {' '.join(options)}")


def package_markers(files: Iterable[str]) -> list[tuple[str, str]]:
    """`__init__.py` for every package folder, and `py.typed` for every top one.

    Regular packages: one `py.typed` then covers the whole tree (PEP 561), and an import
    does not search every entry of the path.
    """
    folders = {folder for file in files for folder in PurePosixPath(file).parents}
    folders.discard(PurePosixPath())
    markers = [(f"{folder}/__init__.py", INIT) for folder in sorted(folders)]
    return markers + [(f"{top}/py.typed", "") for top in sorted(folders) if len(top.parts) == 1]


if __name__ == "__main__":
    main()
