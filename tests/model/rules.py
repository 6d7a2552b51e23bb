"""The rules of the backbone by name. A run may leave one out, to show what it is for."""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """Each value says what the rule demands."""

    # Dispatcher
    ONE_OWNER = "only the owner of a shard publishes from it"
    ACK_BEFORE_DELETE = "a row is deleted when the bus has acknowledged it, not before"
    SINGLES_IN_ORDER = "behind a single publish that failed, nothing of its resource is sent"
    BLAME_SINGLES = "only a single publish lays blame on a message, never the refusal of a batch"
    OUTAGE_BLAMES_NOBODY = "a bus that is down counts no attempt"
    DEAD_HOLDS = "a dead row of the outbox holds back the later ones of its resource"
    # Router
    GUARD = "a router commits behind its term, its stream and its position only"
    INBOX = "a consumer handles an event that its inbox does not have"
    ONE_TRANSACTION = "position, inbox and effect are committed together"
    RESET = "a stream that is another one, or ends below the position, is read from its beginning"
    FOLLOWERS_WAIT = (
        "an ordered consumer's events wait behind one of their resource that waits or is dead"
    )
    HEAD_ONLY = "of what waits for an ordered consumer, only the first of a resource is tried"
    UNKNOWN_WAITS = "a subject of a later release waits for the router that knows it"
    UNKNOWN_HOLDS = "what waits as unknown holds its resource for ordered consumers"
    FEED_COUNTS_ON = "the feed's counter goes on when a stream is another one"
    TRIM_ROUTED = "only what is routed is trimmed from a stream"
    # Healing
    HEAL = "what the bus lost is published again"
    HEAL_AFTER_ROUTING = "an event is missed only when all that was on the bus has been routed"
    HEAL_UNDER_NEW_ID = "what is healed has a bus id that was never used"
    HEAL_UNTIL_QUIET = "a slice of the log is checked until a check finds nothing missing"
    REDRIVE_LOOKS_BACK = "a redriven event is checked again, however old it is"
