"""Usage path, beside it: do the buckets say what the records say?

Invariant: the figure is computed in one statement, so in one snapshot, and is 0 whenever no fold has lost or doubled
anything.
"""

from __future__ import annotations

from uuid import UUID

import queries.quantities

from billing.runtime.db import Connection


async def unreconciled_buckets(tx: Connection, tenant_id: UUID | None) -> int:
    """How many hour buckets differ from the recorded rows, for one tenant or (None, as a worker) the whole house.

    Reads all records of the tenant, so ask for it now and then, not in a loop.
    """
    return await queries.quantities.count_unreconciled_buckets(tx, tenant_id=tenant_id) or 0
