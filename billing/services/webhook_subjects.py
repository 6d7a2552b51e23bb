"""Webhook path, step 1: which events an endpoint wants.

Invariant: a pattern is a subject, or a subject's beginning with `.*` for one or more further words, or `*` for all; it
means the same when it is checked and when it is matched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from typing import Final

from billing.domain.errors import Invalid, Violation
from billing.services.subjects import CUSTOM_PREFIX, known_subjects

PATTERNS_MAX: Final = 50
PATTERN_LENGTH_MAX: Final = 100
EVERYTHING: Final = "*"
_PATTERN: Final = re.compile(r"\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?")


class SubjectInvalid(Invalid):
    """A subject is words of a-z, 0-9 and _ with dots between; `.*` may stand at its end, or `*` alone."""

    reason = "SUBJECT_INVALID"


def check_patterns(patterns: Sequence[str]) -> list[str]:
    """The patterns without repetitions; none given means all. Raises SubjectInvalid."""
    if len(patterns) > PATTERNS_MAX:
        raise SubjectInvalid(
            f"An endpoint has at most {PATTERNS_MAX} subjects; use `.*` to name several at once.",
            metadata={"subject": patterns[PATTERNS_MAX][:PATTERN_LENGTH_MAX]},
        )
    for place, pattern in enumerate(patterns):
        if len(pattern) > PATTERN_LENGTH_MAX or not _PATTERN.fullmatch(pattern):
            raise SubjectInvalid(
                metadata={"subject": pattern[:PATTERN_LENGTH_MAX]},
                violations=[Violation(f"subjects[{place}]", SubjectInvalid.__doc__ or "")],
            )
    return list(dict.fromkeys(patterns)) or [EVERYTHING]


def check_wanted(patterns: Sequence[str]) -> list[str]:
    """What an endpoint may want: as `check_patterns`, and what names one subject names one that some event has.

    Custom subjects are the tenant's own, and `.*` is for those to come, too. Raises SubjectInvalid.
    """
    checked, known = check_patterns(patterns), _known()
    for place, pattern in enumerate(patterns):
        if pattern.endswith("*") or pattern in known or pattern.startswith(CUSTOM_PREFIX):
            continue
        near = difflib.get_close_matches(pattern, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; docs/events.md lists them all."
        text = f"No event has the subject {pattern}{hint}"
        raise SubjectInvalid(
            text, metadata={"subject": pattern}, violations=[Violation(f"subjects[{place}]", text)]
        )
    return checked


@cache
def _known() -> frozenset[str]:
    return known_subjects()


def wants(patterns: Sequence[str], subject: str) -> bool:
    """Whether one of the patterns matches the subject."""
    return any(
        pattern == EVERYTHING
        or (subject.startswith(pattern[:-1]) if pattern.endswith(".*") else subject == pattern)
        for pattern in patterns
    )
