"""Router, step 2: every subject that this release knows.

Invariant: the list comes from the payload messages themselves, so a subject that can be emitted is known here.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Final

import tollway
from google.protobuf.descriptor import FileDescriptor
from tollway.options.v1 import subject_pb2

CUSTOM_PREFIX: Final = "custom."
_PAYLOADS: Final = "_events_pb2"


def known_subjects() -> frozenset[str]:
    """The subjects of all payload messages. Importing them also lets reflection print every payload."""
    subjects = set()
    for module in pkgutil.walk_packages(tollway.__path__, "tollway."):
        if module.name.endswith(_PAYLOADS):
            file: FileDescriptor = importlib.import_module(module.name).DESCRIPTOR
            for message in file.message_types_by_name.values():
                subjects.add(message.GetOptions().Extensions[subject_pb2.subject])
    return frozenset(subjects - {""})
