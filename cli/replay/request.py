"""The door: the plan that the options of `tollway replay plan` ask for.

Invariant: an option that is not given is the safe default, which the server decides.
"""

from __future__ import annotations

from typing import Any, Final

import click
from tollway.replay.v1 import replay_service_pb2 as pb
from tollway.type.v1 import time_range_pb2

STATUSES: Final = {
    "dispatched": pb.REPLAY_EVENT_STATUS_DISPATCHED,
    "dead-letter": pb.REPLAY_EVENT_STATUS_DEAD_LETTER,
}
_EFFECTS: Final = {
    "suppress": pb.EXTERNAL_EFFECTS_SUPPRESS,
    "allow": pb.EXTERNAL_EFFECTS_ALLOW,
}


def plan_request(options: dict[str, Any]) -> pb.PlanReplayRequest:
    """The request. Raises click.UsageError for a target that is none."""
    span = time_range_pb2.TimeRange()
    if options["since"]:
        span.start.FromDatetime(options["since"])
    if options["until"]:
        span.end.FromDatetime(options["until"])
    selected = pb.ReplayFilter(
        tenant_id=options["for_tenant"],
        subjects=options["subjects"],
        resource_id=options["resource"],
        correlation_id=options["correlation"],
        event_ids=options["events"],
        time_range=span,
        status=STATUSES.get(options["status"], pb.REPLAY_EVENT_STATUS_UNSPECIFIED),
        all_tenants=options["all_tenants"],
    )
    return pb.PlanReplayRequest(
        filter=selected,
        targets=[_target(text) for text in options["targets"]],
        max_events=options["max_events"],
        rate_per_second=options["rate"],
        mode=pb.REPLAY_MODE_FORCE if options["force"] else pb.REPLAY_MODE_PRESERVE,
        external_effects=_EFFECTS[options["external_effects"]],
        allow_closed_periods=options["allow_closed_periods"],
        allow_older_than_inbox=options["allow_older_than_inbox"],
        stop_on_errors=options["stop_on_errors"],
        emit_follow_ups=options["follow_ups"],
    )


def _target(text: str) -> pb.ReplayTarget:
    kind, _, name = text.partition(":")
    if kind == "bus" and not name:
        return pb.ReplayTarget(bus=pb.BusTarget())
    if kind == "consumer" and name:
        return pb.ReplayTarget(consumer=pb.ConsumerTarget(consumer=name))
    if kind == "endpoint" and name:
        return pb.ReplayTarget(endpoint=pb.EndpointTarget(endpoint_id=name))
    if kind in {"dead-letters", "dead_letters"} and not name:
        return pb.ReplayTarget(dead_letters=pb.DeadLettersTarget())
    raise click.UsageError(
        f"{text!r} is no target; there are bus, consumer:NAME, endpoint:whe_… and dead-letters"
    )
