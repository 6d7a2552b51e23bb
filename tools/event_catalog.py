"""Contract toolchain: docs/events.md, the catalog of event subjects, from the payload messages.

Invariant: a subject is spelled once, in the option of its payload message.
"""

from itertools import pairwise

from tools.contract import Contract, Message
from tools.markdown import cell, link, paragraph, row

HEAD = """\
# The events

Generated from `proto/` by `make gen`; do not edit.

Every event travels in one envelope, [`tollway.event.v1.Event`](api.md#tollwayeventv1event). Its
`data` is the payload message of its subject. Tenants may publish events of their own under
`custom.`; their payload is a `google.protobuf.Struct`.
"""


class SubjectTaken(Exception):
    """Two payload messages carry one subject; give one of them its own."""


def render(contract: Contract) -> str:
    """The page: a table of all subjects, then a section with the fields of each payload."""
    payloads = sorted((m for m in contract.messages if m.subject), key=lambda m: m.subject)
    for one, other in pairwise(payloads):
        if one.subject == other.subject:
            raise SubjectTaken(f"{one.subject}: {one.name} and {other.name}")
    lines = [HEAD, row("subject", "tells that", "payload"), row("---", "---", "---")]
    lines += [
        row(f"[`{m.subject}`](#{link(m.subject)})", cell(m.comment), f"`{m.name}`")
        for m in payloads
    ]
    return "\n".join([*lines, *(section(m) for m in payloads)]) + "\n"


def section(message: Message) -> str:
    """Heading, comment and fields of one payload."""
    lines = [
        f"\n## {message.subject}\n",
        paragraph(message.comment),
        f"\nPayload: `{message.name}`.\n",
    ]
    if not message.fields:
        return "\n".join([*lines, "It has no fields."])
    lines += [row("field", "type", "meaning"), row("---", "---", "---")]
    lines += [row(f"`{f.name}`", f"`{f.type}`", cell(f.comment)) for f in message.fields]
    return "\n".join(lines)
