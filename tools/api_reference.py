"""Contract toolchain: docs/api.md, every service, message and enum with its comments.

Invariant: every type that a table names has its own section on the page, or is Google's.
"""

import re
from typing import Final

from tools.contract import Contract, Enum, Message, Rpc, Service
from tools.markdown import cell, link, paragraph, row

HEAD = """\
# The API

Generated from `proto/` by `make gen`; do not edit. The errors are explained in
[errors.md](errors.md), the events in [events.md](events.md).

The grpcurl lines run as they are on the house that `tollway demo` leaves behind, with `$KEY`, `$ADDR` and the like in
the shell; each of them is a test. `python -m tools.grpcurl` fetches grpcurl, and says where it is.
"""

TYPE: Final = re.compile(r"tollway(?:\.\w+)+")
# Lines of an RPC's comment that begin with one of these words become entries of a list.
MARKED: Final = re.compile(r"(Permission|Errors|Example): (.*)", re.DOTALL)


def render(contract: Contract) -> str:
    """The page: the services first, then the messages and enums by name."""
    lines = [HEAD, row("service", "what for"), row("---", "---")]
    services = sorted(contract.services, key=lambda s: s.name)
    lines += [row(f"[`{s.name}`](#{link(s.name)})", cell(s.comment)) for s in services]
    for service in services:
        lines += service_section(service)
    lines.append("\n# Messages and enums")
    types: list[Message | Enum] = sorted(
        [*contract.messages, *contract.enums], key=lambda each: each.name
    )
    for each in types:
        lines += message_section(each) if isinstance(each, Message) else enum_section(each)
    return "\n".join(lines) + "\n"


def service_section(service: Service) -> list[str]:
    """Heading and methods of one service."""
    lines = [f"\n## {service.name}\n", paragraph(service.comment)]
    for rpc in service.rpcs:
        lines += rpc_section(rpc)
    return lines


def rpc_section(rpc: Rpc) -> list[str]:
    """Signature, comment, permission, errors and a call of one method."""
    streams_in, streams_out = ("stream " * on for on in (rpc.streams_in, rpc.streams_out))
    signature = f"{streams_in}{typed(rpc.request)} → {streams_out}{typed(rpc.answer)}"
    lines = [f"\n### {rpc.name}\n", f"{signature}{''.join(f', `{path}`' for path in rpc.http)}\n"]
    for part in re.split(r"\n(?=Permission: |Errors: |Example: )|\n\n", rpc.comment):
        marked = MARKED.match(part)
        if marked is None:
            lines += [paragraph(part), ""]
        elif marked[1] == "Example":
            lines.append(f"\n```sh\n{marked[2]}\n```")
        else:
            lines.append(f"- {marked[1]}: {paragraph(marked[2])}")
    return lines


def message_section(message: Message) -> list[str]:
    """Heading, comment and fields of one message."""
    lines = [f"\n## {message.name}\n", paragraph(message.comment), ""]
    if message.fields:
        lines += [row("field", "type", "meaning"), row("---", "---", "---")]
    lines += [row(f"`{f.name}`", typed(f.type), cell(f.comment)) for f in message.fields]
    return lines


def enum_section(enum: Enum) -> list[str]:
    """Heading, comment and values of one enum."""
    lines = [f"\n## {enum.name}\n", paragraph(enum.comment), ""]
    lines += [row("value", "number", "meaning"), row("---", "---", "---")]
    lines += [row(f"`{v.name}`", str(v.number), cell(v.comment)) for v in enum.values]
    return lines


def typed(text: str) -> str:
    """A type as code, linked to its section when it is one of ours."""
    matched = TYPE.search(text)
    shown = f"`{text}`"
    return f"[{shown}](#{link(matched[0])})" if matched else shown
