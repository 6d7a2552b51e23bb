"""Row-level security: the database itself keeps tenants apart. Walks the catalog, so that no table can be forgotten."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from billing.runtime.db import Database, DatabaseSettings, Role, connect
from billing.runtime.ids import new_id
from tests.conftest import Databases

# Of the house, not of a tenant. Whoever adds a table here says why it holds nothing of a tenant's.
HOUSE_TABLES: Final = {
    "schema_migrations": "which migrations ran",
    "topology": "how many shards there are",
    "leases": "which process owns which shard",
    "lease_members": "which processes live",
    "healing": "up to which event the log is known to be handled",
    "router_positions": "how far the router has come",
    "router_consumers": "from which event on each consumer is there",
    "event_feed_weeks": "where the weeks of the feed begin",
    "bucket_walk": "how far the comparison of buckets with records has come",
    "webhook_claims": "which worker has claimed which deliveries; it spans tenants",
}
# What the API's role may see of the house.
SHOWN_TO_API: Final = {"event_feed_weeks", "router_consumers", "router_positions", "topology"}
WRITE_ONCE: Final = ("billing_events", "event_links", "audit_log")
API: Final = "tollway_api"


# A new value of each type from a running number. Ids are of today, since partitions are ranges of time.
MAKERS: Final[Mapping[str, Callable[[int], object]]] = {
    **dict.fromkeys(("int2", "int4", "int8", "numeric"), lambda n: n),
    "uuid": lambda _: new_id(datetime.now(UTC)),
    "text": lambda n: f"x{n}",
    "_text": lambda n: [f"x{n}"],
    "bytea": lambda n: b"%d" % n,
    "bool": lambda _: False,
    "jsonb": lambda n: f"[{n}]",
    "timestamptz": lambda _: datetime.now(UTC),
    "date": lambda _: datetime.now(UTC).date(),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of tenants, and the column that says whose a row is."""

    name: str

    @property
    def owner(self) -> str:
        return "id" if self.name == "tenants" else "tenant_id"


class Catalog:
    """The owner's view of the schema, and rows of each table for two tenants."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], tables: list[Table]) -> None:
        self.connection, self.tables = connection, tables
        self.ours, self.theirs = new_id(datetime.now(UTC)), new_id(datetime.now(UTC))
        self._numbers: Iterator[int] = itertools.count(1)
        self._columns: dict[str, list[asyncpg.Record]] = {}

    async def row(self, table: Table, tenant: UUID) -> tuple[str, list[Any]]:
        """An INSERT of a new row of the tenant, and its values."""
        columns = await self._columns_of(table.name)
        names = ", ".join(f'"{column["attname"]}"' for column in columns)
        places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
        values = [
            tenant if column["attname"] == table.owner else self._value(table.name, column)
            for column in columns
        ]
        return f"INSERT INTO {table.name} ({names}) VALUES ({places})", values

    async def fill(self) -> None:
        """A row of each tenant in each table. Foreign keys, checks and triggers are off: this is about who sees it."""
        await self.connection.execute("SET session_replication_role = replica")
        for check in await self.connection.fetch(
            "SELECT conrelid::regclass AS name, conname FROM pg_constraint"
            " WHERE contype = 'c' AND connamespace = 'public'::regnamespace AND conislocal"
        ):
            await self.connection.execute(
                f'ALTER TABLE {check["name"]} DROP CONSTRAINT IF EXISTS "{check["conname"]}"'
            )
        for table in self.tables:
            await self.connection.execute(f"ALTER TABLE {table.name} DISABLE TRIGGER USER")
            for tenant in (self.ours, self.theirs):
                statement, values = await self.row(table, tenant)
                await self.connection.execute(statement, *values)

    async def _columns_of(self, table: str) -> list[asyncpg.Record]:
        if table not in self._columns:
            self._columns[table] = await self.connection.fetch(
                "SELECT attname, t.typname FROM pg_attribute a"
                " JOIN pg_type t ON t.oid = a.atttypid"
                " WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped"
                " AND attgenerated = '' AND attidentity = ''"
                " AND (attnotnull AND NOT atthasdef OR attname = 'tenant_id') ORDER BY attnum",
                table,
            )
        return self._columns[table]

    def _value(self, table: str, column: asyncpg.Record) -> Any:
        name = column["typname"]
        assert name in MAKERS, f"{table}.{column['attname']}: say above what a {name} may be"
        return MAKERS[name](next(self._numbers))


@pytest.fixture
async def catalog(databases: Databases) -> AsyncIterator[Catalog]:
    connection = await asyncpg.connect(databases.url)
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname"
    )
    tables = [Table(row["relname"]) for row in rows if row["relname"] not in HOUSE_TABLES]
    yield Catalog(connection, tables)
    await connection.close()


@pytest.fixture
async def filled(catalog: Catalog) -> Catalog:
    await catalog.fill()
    return catalog


@pytest.fixture
async def api(databases: Databases) -> AsyncIterator[Database]:
    """One session, so that each transaction meets what the one before left behind."""
    database = await connect(databases.url, Role.API, DatabaseSettings(connections_max=1))
    yield database
    await database.close()


async def test_every_table_says_whose_a_row_is_or_holds_nothing_of_a_tenant(
    catalog: Catalog,
) -> None:
    names = {table.name for table in catalog.tables}
    missing = await catalog.connection.fetch(
        "SELECT relname FROM pg_class c WHERE relname = ANY ($1) AND relname <> 'tenants'"
        " AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant_id')",
        list(names),
    )
    assert not missing, "a tenant's table has a tenant_id; a table of the house stands above"


async def test_every_tenants_table_is_under_forced_row_level_security(catalog: Catalog) -> None:
    for table in catalog.tables:
        flags = await catalog.connection.fetchrow(
            "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = $1::regclass",
            table.name,
        )
        assert flags is not None
        assert tuple(flags) == (True, True), table.name
        policies = await catalog.connection.fetch(
            "SELECT roles::text[] AS roles, cmd, permissive, qual, with_check FROM pg_policies"
            " WHERE schemaname = 'public' AND tablename = $1",
            table.name,
        )
        assert len(policies) == 1, table.name
        policy = policies[0]
        assert (policy["roles"], policy["cmd"], policy["with_check"]) == ([API], "ALL", None)
        assert f"({table.owner} = (NULLIF(current_setting('tollway.tenant'" in policy["qual"]


async def test_nothing_is_granted_on_partitions_and_on_tables_of_the_house(
    catalog: Catalog,
) -> None:
    granted = {
        (row["relname"], row["relispartition"], row["rolname"])
        for row in await catalog.connection.fetch(
            "SELECT relname, relispartition, rolname FROM pg_class, pg_roles"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            " AND rolname IN ('tollway_api', 'tollway_worker')"
            " AND has_table_privilege(rolname, pg_class.oid,"
            " 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')"
        )
    }
    assert not [row for row in granted if row[1]], "a policy does not guard a partition"
    assert {name for name, _, role in granted if role == API and name in HOUSE_TABLES} == (
        SHOWN_TO_API
    )


async def test_views_ask_as_their_reader_and_the_api_runs_nothing_as_the_owner(
    catalog: Catalog,
) -> None:
    views = await catalog.connection.fetch(
        "SELECT relname, reloptions FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'"
    )
    assert views
    for view in views:
        assert "security_invoker=true" in (view["reloptions"] or []), view["relname"]
    owned = await catalog.connection.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
        " AND has_function_privilege('tollway_api', oid, 'EXECUTE')"
    )
    assert not owned


async def test_without_a_tenant_there_is_no_row_and_no_error(
    filled: Catalog, api: Database
) -> None:
    """On a new session, and on one that has named a tenant before: there the setting reads '' and not null."""
    for turn in ("new", "reused"):
        async with api.transaction() as tx:
            for table in filled.tables:
                count = await tx.fetchval(f"SELECT count(*) FROM {table.name}")
                assert count == 0, (turn, table.name)
        async with api.transaction(filled.ours) as tx:
            assert await tx.fetchval("SELECT count(*) FROM tenants") == 1


async def test_a_tenant_sees_its_own_rows_and_a_stranger_none(
    filled: Catalog, api: Database
) -> None:
    stranger = new_id(datetime.now(UTC))
    for tenant, expected in ((filled.ours, [filled.ours]), (stranger, [])):
        async with api.transaction(tenant) as tx:
            for table in filled.tables:
                rows = await tx.fetch(f"SELECT {table.owner} AS owner FROM {table.name}")
                assert [row["owner"] for row in rows] == expected, table.name


async def test_partitions_cannot_be_read_past_their_table(
    filled: Catalog, api: Database, databases: Databases
) -> None:
    partitions = await filled.connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relispartition AND relkind = 'r'"
    )
    names = [row["relname"] for row in partitions]
    for parent in ("billing_events", "usage_records", "inbox"):
        assert [name for name in names if name.startswith(f"{parent}_")], parent
    for database in (api, databases.worker):
        for name in names:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with database.transaction(filled.ours) as tx:
                    await tx.fetch(f'SELECT * FROM "{name}"')


async def test_a_row_for_another_tenant_is_refused(filled: Catalog, api: Database) -> None:
    for table in filled.tables:
        statement, values = await filled.row(table, filled.theirs)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with api.transaction(filled.ours) as tx:
                await tx.execute(statement, *values)


async def test_a_row_cannot_be_given_to_another_tenant_nor_taken_from_it(
    filled: Catalog, api: Database
) -> None:
    for table in filled.tables:
        if not await _may(filled, table, "UPDATE"):
            continue
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with api.transaction(filled.ours) as tx:
                await tx.execute(f"UPDATE {table.name} SET {table.owner} = $1", filled.theirs)
        async with api.transaction(filled.ours) as tx:
            touched = await tx.execute(
                f"UPDATE {table.name} SET {table.owner} = $1 WHERE {table.owner} = $2",
                filled.ours,
                filled.theirs,
            )
        assert touched == "UPDATE 0", table.name


async def test_a_tenant_deletes_nothing_of_another(filled: Catalog, api: Database) -> None:
    for table in filled.tables:
        if await _may(filled, table, "DELETE"):
            async with api.transaction(filled.ours) as tx:
                await tx.execute(f"DELETE FROM {table.name}")
        left = await filled.connection.fetchval(
            f"SELECT count(*) FROM {table.name} WHERE {table.owner} = $1", filled.theirs
        )
        assert left == 1, table.name


@pytest.mark.parametrize("role", ["api", "worker"])
@pytest.mark.parametrize("table", WRITE_ONCE)
async def test_facts_are_neither_changed_nor_deleted(
    filled: Catalog, databases: Databases, api: Database, role: str, table: str
) -> None:
    database = api if role == "api" else databases.worker
    for statement in (
        f"UPDATE {table} SET tenant_id = tenant_id",
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.transaction(filled.ours) as tx:
                await tx.execute(statement)


async def test_every_foreign_key_between_tenants_tables_carries_the_tenant(
    catalog: Catalog,
) -> None:
    names = [table.name for table in catalog.tables]
    loose = await catalog.connection.fetch(
        "SELECT conrelid::regclass::text AS name, conname FROM pg_constraint f"
        " WHERE contype = 'f' AND conparentid = 0"
        " AND conrelid::regclass::text = ANY ($1) AND confrelid::regclass::text = ANY ($1)"
        " AND NOT EXISTS (SELECT FROM generate_subscripts(conkey, 1) AS n"
        "  JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[n]"
        "  JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = confkey[n]"
        "  WHERE a.attname = 'tenant_id' AND b.attname ="
        "   CASE WHEN confrelid = 'tenants'::regclass THEN 'id' ELSE 'tenant_id' END)",
        names,
    )
    assert not loose


async def test_a_workers_mistake_across_tenants_is_refused(databases: Databases) -> None:
    """A worker sees everybody; the composite key still ties a price's plan to the price's tenant."""
    ours, theirs, plan = (new_id(databases.clock.now()) for _ in range(3))
    async with databases.worker.transaction() as tx:
        for tenant in (ours, theirs):
            await tx.execute(
                "INSERT INTO tenants (id, display_name, mode, time_zone, created_at)"
                " VALUES ($1, 'x', 'test', 'UTC', now())",
                tenant,
            )
        await tx.execute(
            "INSERT INTO plans (tenant_id, id, key, display_name, currency, billing_interval, created_at)"
            " VALUES ($1, $2, 'basic', 'Basic', 'USD', 'month', now())",
            theirs,
            plan,
        )
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with databases.worker.transaction() as tx:
            await tx.execute(
                "INSERT INTO prices (tenant_id, id, plan_id, display_name, currency, model, config,"
                " billing_timing, created_at)"
                " VALUES ($1, $2, $3, 'x', 'USD', 'flat', '{}', 'in_advance', now())",
                ours,
                new_id(databases.clock.now()),
                plan,
            )


async def _may(catalog: Catalog, table: Table, what: str) -> bool:
    allowed: bool = await catalog.connection.fetchval(
        "SELECT has_table_privilege('tollway_api', $1::regclass, $2)", table.name, what
    )
    return allowed
