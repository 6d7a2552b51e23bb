"""Query plugin, names: SQL -> Python.

Invariant: a generated name is a valid identifier that hides nothing the module itself uses.
"""

from __future__ import annotations

import keyword
import re

# Names that annotations and bodies of the generated modules refer to. `status` is not among them:
# it is too good a column name, and the one function with such a local has no parameter of its own.
TAKEN = frozenset(
    {
        *("bool", "bytes", "float", "int", "list", "str", "tuple"),
        *("collections", "dataclasses", "datetime", "decimal", "enum", "typing", "uuid"),
        *("annotations", "conn", "models", "row", "row_class", "rows"),
    }
)
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+|[0-9]+")
_ENDINGS = (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"))
_KEEP_S = ("ss", "us", "is", "news", "series")


def snake(name: str) -> str:
    """FinalizeInvoice -> finalize_invoice, HTTPStatus -> http_status, past-due -> past_due."""
    return "_".join(word.lower() for word in _WORDS.findall(name))


def value_name(name: str) -> str:
    """A parameter or field: `class` and `uuid` get an underscore behind."""
    python = snake(name) or "_"
    if python[0].isdigit():
        python = f"n{python}"
    if python in TAKEN or keyword.iskeyword(python):
        return f"{python}_"
    return python


def class_name(name: str) -> str:
    """usage_event -> UsageEvent."""
    return "".join(word.capitalize() for word in snake(name).split("_"))


def model_name(table: str) -> str:
    """A row is one thing: table usage_records -> UsageRecord."""
    head, _, last = snake(table).rpartition("_")
    return class_name(f"{head}_{singular(last)}")


def singular(noun: str) -> str:
    """English enough for table names: policies -> policy, addresses -> address, status stays."""
    for plural, single in _ENDINGS:
        if noun.endswith(plural):
            return noun.removesuffix(plural) + single
    if noun.endswith("s") and not noun.endswith(_KEEP_S):
        return noun.removesuffix("s")
    return noun
