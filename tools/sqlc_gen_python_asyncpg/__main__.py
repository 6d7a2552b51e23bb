"""Query plugin, the process: a request of sqlc as JSON on stdin, the files as JSON on stdout.

Invariant: exit code 0 means that every file is right; a refusal is one line on stderr and code 1.
"""

from __future__ import annotations

import base64
import json
import sys

from tools.sqlc_gen_python_asyncpg.generate import generate
from tools.sqlc_gen_python_asyncpg.refusal import Refusal
from tools.sqlc_gen_python_asyncpg.request import parse


def main() -> int:
    """Answer one request of sqlc (protos/plugin/codegen.proto, JSON form: bytes are base64)."""
    try:
        files = generate(parse(json.load(sys.stdin)))
    except Refusal as refusal:
        sys.stderr.write(f"sqlc-gen-python-asyncpg: {refusal}\n")
        return 1
    answer = [
        {"name": name, "contents": base64.b64encode(text.encode()).decode()}
        for name, text in sorted(files.items())
    ]
    json.dump({"files": answer}, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
