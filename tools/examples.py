"""Contract toolchain: the grpcurl line in an RPC's comment, and the request in it as JSON of protobuf.

Invariant: grpcurl takes a field mask as the message that it is, `{"paths": ["display_name"]}`; JSON of protobuf, and so
the HTTP API, writes `"displayName"`.
"""

import json
import re
import shlex
from string import Template
from typing import Any, Final

from tools.contract import Rpc

MASK: Final = "update_mask"
# The other variables of the shell stand for ids, which are strings in the request too.
_KNOWN: Final = {"NOW": "2026-01-01T00:00:00Z"}


def line_of(rpc: Rpc) -> str | None:
    """The line, as it is printed."""
    found = re.search(r"^Example: (grpcurl .+)$", rpc.comment, re.MULTILINE)
    return found[1] if found else None


def words_of(line: str) -> list[str]:
    """The words that a shell would make of the line."""
    return shlex.split(Template(line).safe_substitute(_KNOWN))


def request_of(rpc: Rpc) -> dict[str, Any] | None:
    """The request of the line, with the shell's variables as they stand there; None without a line."""
    line = line_of(rpc)
    if line is None:
        return None
    words = words_of(line)
    body: dict[str, Any] = json.loads(words[words.index("-d") + 1]) if "-d" in words else {}
    if MASK in body:
        body[MASK] = ",".join(map(_camel, body[MASK]["paths"]))
    return body


def _camel(name: str) -> str:
    return re.sub(r"_(.)", lambda found: found[1].upper(), name)
