"""Contract toolchain: protoc-gen-mypy_grpc, asked only for the files that have a service.

The original also answers for files without one, with a stub of a module that does not exist.
"""

import subprocess
import sys

from google.protobuf.compiler import plugin_pb2


def main() -> None:
    """Narrow the request on stdin and let the original plugin answer it on stdout."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    serving = {file.name for file in request.proto_file if file.service}
    wanted = [name for name in request.file_to_generate if name in serving]
    request.ClearField("file_to_generate")
    request.file_to_generate.extend(wanted)
    answer = subprocess.run(
        ["protoc-gen-mypy_grpc"],
        input=request.SerializeToString(),
        capture_output=True,
        check=False,
    )
    sys.stderr.buffer.write(answer.stderr)
    sys.stdout.buffer.write(answer.stdout)
    raise SystemExit(answer.returncode)


if __name__ == "__main__":
    main()
