"""The rim, step 3: a request keeps the rules written in the contract, or none of it is looked at.

Invariant: what a method receives satisfies every buf.validate annotation of its request message.
"""

from __future__ import annotations

from typing import Final

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from billing.domain.errors import Invalid, Violation

VIOLATIONS_MAX: Final = 20

_validator: Final = (
    protovalidate.Validator()
)  # compiled rules; immutable once a message type is known


def validate(request: Message) -> None:
    """Raises Invalid with a violation per broken rule, by field path."""
    found = _validator.collect_violations(request)
    if not found:
        return
    violations = [
        Violation(_path(violation), violation.proto.message or violation.proto.rule_id)
        for violation in found[:VIOLATIONS_MAX]
    ]
    first = violations[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise Invalid(f"{first.path}: {first.description}{more}", violations=violations)


def refuse_nul(message: Message, prefix: str = "") -> None:
    """PostgreSQL's text has no NUL. Elements of lists of messages judge themselves, each alone, as usage records do.

    Raises Invalid.
    """
    for field, value in message.ListFields():
        path = prefix + field.name
        if field.type == FieldDescriptor.TYPE_STRING:
            texts = value if field.is_repeated else (value,)
            if any("\0" in text for text in texts):
                raise Invalid.field(path, "must not contain NUL")
        elif field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
            refuse_nul(value, path + ".")


def _path(violation: protovalidate.Violation) -> str:
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += ("." if path else "") + element.field_name
        subscript = element.subscript
        if subscript is not None:
            path += f"[{subscript.value}]"
    return path
