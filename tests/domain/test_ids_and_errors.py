"""The names of things, and the closed vocabulary of errors."""

from __future__ import annotations

from typing import cast
from uuid import UUID

import pytest
import uuid_utils
from hypothesis import given
from hypothesis import strategies as st
from typeid import TypeID

from billing.domain import credit_note, signature
from billing.domain.errors import (
    BillingError,
    Invalid,
    InvalidId,
    Kind,
    NotFound,
    Precondition,
    Violation,
    error_types,
)
from billing.domain.ids import ID_LENGTH_MAX, Prefix, decode, encode


@given(st.uuids(), st.sampled_from(list(Prefix)))
def test_an_id_is_the_same_after_text_and_back(identity: UUID, prefix: Prefix) -> None:
    text = encode(prefix, identity)
    assert text.startswith(f"{prefix}_")
    assert len(text) <= ID_LENGTH_MAX
    assert decode(prefix, text) == identity
    assert text == str(TypeID.from_uuid(cast(uuid_utils.UUID, identity), prefix.value))


@given(st.uuids(), st.uuids())
def test_ids_sort_as_their_uuids_do(one: UUID, two: UUID) -> None:
    texts = encode(Prefix.EVENT, one), encode(Prefix.EVENT, two)
    assert (texts[0] < texts[1]) == (one < two)


def test_prefixes_are_three_letters_and_no_two_alike() -> None:
    assert len({prefix.value for prefix in Prefix}) == len(Prefix.__members__)
    assert all(len(p) == 3 and p.isalpha() and p.islower() for p in Prefix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evt",
        "evt_",
        "inv_6f81r8hyv095yt14xnnh2xz79t",
        "evt_6F81R8HYV095YT14XNNH2XZ79T",
        "evt_8zzzzzzzzzzzzzzzzzzzzzzzzz",
        "evt_6f81r8hyv095yt14xnnh2xz79u",
        "evt_6f81r8hyv095yt14xnnh2xz79",
        "evt_6f81r8hyv095yt14xnnh2xz7\n9",
        "evt_" + "é" * 26,
        "evt_" + "0" * 10**6,
    ],
)
def test_what_is_not_a_canonical_id_of_its_kind_is_refused(text: str) -> None:
    with pytest.raises(InvalidId) as refusal:
        decode(Prefix.EVENT, text, path="event_id")
    assert refusal.value.violations[0].path == "event_id"
    assert len(refusal.value.message) < 300


@given(st.text(max_size=40))
def test_no_text_of_a_stranger_breaks_decoding(text: str) -> None:
    try:
        decode(Prefix.EVENT, "evt_" + text)
    except InvalidId:
        return


def test_every_error_has_a_kind_a_reason_and_a_message() -> None:
    assert credit_note
    assert signature
    domain = [error for error in error_types() if error.__module__.startswith("billing.domain")]
    for error in domain:
        made = error()
        assert isinstance(made.kind, Kind)
        assert made.reason == made.reason.upper()
        assert made.message.endswith(".")
    reasons = [error.reason for error in domain]
    assert len(reasons) == len(set(reasons))


def test_an_error_says_what_its_class_says_unless_told_more() -> None:
    class QuotaFull(Precondition):
        """The quota is full; ask for a higher one."""

        reason = "QUOTA_FULL"

    assert str(QuotaFull()) == "The quota is full; ask for a higher one."
    told = QuotaFull("Quota 5 is full.", metadata={"quota": "5"}, retry_after_s=3)
    assert (str(told), told.metadata, told.retry_after_s) == ("Quota 5 is full.", {"quota": "5"}, 3)
    assert Invalid().metadata == {}


def test_a_kind_without_a_reason_cannot_be_raised_itself() -> None:
    with pytest.raises(TypeError, match="raise a subclass"):
        NotFound("There is no such thing.")


def test_an_error_without_a_proper_reason_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="UPPER_SNAKE"):
        type("Sloppy", (Invalid,), {"reason": "not so"})
    with pytest.raises(TypeError):
        type("Kindless", (BillingError,), {"reason": "FINE"})


def test_a_wrong_field_is_named() -> None:
    error = Invalid.field("tiers[2].up_to", "must be above zero.")
    assert error.violations == (Violation("tiers[2].up_to", "must be above zero."),)
    assert str(error) == "tiers[2].up_to: must be above zero."
