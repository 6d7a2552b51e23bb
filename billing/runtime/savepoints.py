"""Router, step 3: a part of a transaction that may fail alone.

Invariant: after the block either all of its statements stand or none, and the transaction goes on. An outage is not
caught here: a transaction whose session is gone has nothing to go back to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from billing.runtime.db import Connection


@asynccontextmanager
async def savepoint(tx: Connection) -> AsyncIterator[None]:
    """Undoes the block's statements when it raises, and lets the error through."""
    await tx.execute("SAVEPOINT part")
    try:
        yield
    except Exception:
        if not tx.is_closed():
            await tx.execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part")
        raise
    await tx.execute("RELEASE SAVEPOINT part")
