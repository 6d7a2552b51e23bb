"""Webhook path, step 2: the limits of the sender, each with its unit.

Invariant: a claim is held longer than the longest attempt, so that no delivery is attempted twice at a time
by one owner.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """How much at a time, and how long. The defaults are those that `make bench` measures."""

    claim_rows_max: int = 64
    claim_lease_s: float = 60.0
    # What is still missing when an attempt ends: its result waits for a batch, and for the database.
    record_margin_s: float = 20.0
    slots: int = 512
    # An exchange older than this gives its slot back and counts only against its endpoint.
    slot_s: float = 0.05
    # One older than this makes its endpoint bad, until it answers 2xx.
    slow_s: float = 0.5
    per_endpoint_max: int = 32
    bad_per_claim_max: int = 2
    bad_open_max: int = 4_096
    open_max: int = 8_192
    # What an endpoint with a rate limit may begin at once, as a part of its rate.
    pace_s: float = 0.1
    record_rows_max: int = 200
    record_after_s: float = 0.004
    look_pause_s: float = 0.002
    # Rows that a slow transaction made become visible after their due time; this far back they are looked for.
    look_back_s: float = 1.0
    discovery_s: float = 5.0
    connect_timeout_s: float = 5.0
    total_timeout_s: float = 20.0
    # The total timeout is shortened by up to this part, so that what began together does not end together.
    timeout_jitter: float = 0.2
    # How long an endpoint that answered 429 is left alone when it does not say, and at most when it does.
    hold_s: float = 5.0
    hold_max_s: float = 3_600.0
    answer_read_bytes_max: int = 64 * KIB
    answer_kept_bytes_max: int = 16 * KIB

    def __post_init__(self) -> None:
        """Refuses a claim that could end before its attempts.

        Raises:
            ValueError: claim_lease_s is not longer than an attempt and the margin.
        """
        if self.claim_lease_s < self.total_timeout_s + self.record_margin_s:
            raise ValueError(
                "claim_lease_s must be at least total_timeout_s and record_margin_s together"
            )
        if self.connect_timeout_s > self.total_timeout_s:
            raise ValueError("connect_timeout_s must not be above total_timeout_s")
