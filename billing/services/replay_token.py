"""Replay path, steps 1 and 2: the plan's confirmation.

Invariant: a replay starts by exactly the plan that was shown, by the key that it was shown to, within 15 minutes, once.
Nothing is stored at planning: the token carries the plan, and an HMAC-SHA256 over it, its actor and its expiry. What
is not authentic is not even parsed.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self
from uuid import UUID

from billing.domain.errors import Invalid
from billing.domain.replay import Effects, Mode, Safety, Target
from billing.runtime.ids import new_id
from billing.services.replay_filter import ReplayFilter

TOKEN_LIFETIME: Final = timedelta(minutes=15)
# What the key of the tokens is derived from the house's key by; another form of token takes another label.
KEY_LABEL: Final = "replay confirmation v2"
_MAC_BYTES: Final = 32


class TokenInvalid(Invalid):
    """The confirmation token is not one of a plan; send it as PlanReplay answered it, or plan again."""

    reason = "REPLAY_TOKEN_INVALID"


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a replay is to do, and what was found for it. `matched` events, the first and the last of them.

    `tenants` has the same of each tenant, of a plan that spans them all.
    """

    filter: ReplayFilter
    target: Target
    safety: Safety
    max_events: int
    rate_per_second: int  # 0: as fast as the bus takes them
    matched: int
    first_id: UUID | None
    last_id: UUID | None
    tenants: Mapping[UUID, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Canonical JSON, from which `parse` makes the same plan."""
        values = {
            "filter": self.filter.as_json(),
            "target": str(self.target),
            "safety": dataclasses.asdict(self.safety),
            "max_events": self.max_events,
            "rate_per_second": self.rate_per_second,
            "matched": self.matched,
            "first": self.first_id.hex if self.first_id else "",
            "last": self.last_id.hex if self.last_id else "",
            "tenants": {tenant.hex: count for tenant, count in self.tenants.items()},
        }
        return _canonical(values)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical text."""
        return hashlib.sha256(self.text.encode()).digest()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The plan with this text, whatever the order of its keys."""
        values = json.loads(text)
        return cls(
            ReplayFilter.of_json(values["filter"]),
            Target.parse(values["target"]),
            _safety_of(values["safety"]),
            values["max_events"],
            values["rate_per_second"],
            values["matched"],
            UUID(values["first"]) if values["first"] else None,
            UUID(values["last"]) if values["last"] else None,
            {UUID(tenant): count for tenant, count in values["tenants"].items()},
        )

    def of_tenant(self, tenant_id: UUID) -> ReplayPlan:
        """The part of a plan over all tenants that is one tenant's."""
        return replace(
            self,
            filter=replace(self.filter, tenant_id=tenant_id),
            matched=self.tenants[tenant_id],
            tenants={},
        )


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A plan that may be started by `actor` until `expires_at`; the nonce makes that once."""

    plan: ReplayPlan
    actor: str
    expires_at: datetime
    nonce: UUID


class Confirmations:
    """Gives and reads tokens, with a key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def give(self, plan: ReplayPlan, actor: str, *, now: datetime) -> tuple[str, Confirmation]:
        """The token for `actor`, and what it says."""
        expires_at = (now + TOKEN_LIFETIME).replace(microsecond=0)
        confirmation = Confirmation(plan, actor, expires_at, new_id(now))
        values = {
            "plan": plan.text,
            "plan_hash": plan.digest.hex(),
            "actor": actor,
            "expires_at": int(expires_at.timestamp()),
            "nonce": confirmation.nonce.hex,
        }
        body = zlib.compress(_canonical(values).encode(), 9)
        return base64.urlsafe_b64encode(self._mac(body) + body).decode().rstrip("="), confirmation

    def read(self, token: str) -> Confirmation:
        """What an authentic token says, expired or not. Raises TokenInvalid."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise TokenInvalid() from error
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise TokenInvalid()
        values = json.loads(zlib.decompress(body))
        return Confirmation(
            ReplayPlan.parse(values["plan"]),
            values["actor"],
            datetime.fromtimestamp(values["expires_at"], UTC),
            UUID(values["nonce"]),
        )

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def _safety_of(values: Mapping[str, Any]) -> Safety:
    return Safety(
        **{
            **values,
            "mode": Mode(values["mode"]),
            "external_effects": Effects(values["external_effects"]),
        }
    )


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
