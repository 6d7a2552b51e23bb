"""The query plugin through the real sqlc: what it writes, what it refuses, what `sqlc vet` says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tools.sqlc_gen_python_asyncpg import names, nullability
from tools.sqlc_gen_python_asyncpg.generate import generate
from tools.sqlc_gen_python_asyncpg.refusal import Refusal
from tools.sqlc_gen_python_asyncpg.request import Query, Request, parse
from tools.sqlc_gen_python_asyncpg.shapes import decide

ROOT: Final = Path(__file__).resolve().parents[2]
FIXTURE: Final = ROOT / "tests/tools/sqlc_plugin"
PLUGIN: Final = ROOT / "tools/sqlc_gen_python_asyncpg"
BIN: Final = Path(sys.executable).parent

CONFIG: Final = """
version: "2"
plugins:
  - name: plugin
    process: {{cmd: {cmd}, format: json}}
    env: [PATH]
sql:
  - engine: postgresql
    schema: [{schema}, {catalog}]
    queries: {queries}
    codegen:
      - plugin: plugin
        out: gen
"""


def sqlc(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run sqlc as `make gen` does: this Python first on PATH."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [BIN / "sqlc", *arguments],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def configure(folder: Path, *, cmd: Path, schema: Path, queries: Path) -> None:
    """Write a sqlc.yaml of its own into `folder`; sqlc takes every path but cmd from there."""
    paths = {"schema": schema, "catalog": PLUGIN / "catalog.sql", "queries": queries}
    relative = {name: os.path.relpath(path, folder) for name, path in paths.items()}
    text = CONFIG.format(cmd=cmd, **relative)
    (folder / "sqlc.yaml").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """What sqlc tells a plugin about refused.sql: one run of it, with a plugin that writes down."""
    folder = tmp_path_factory.mktemp("refused")
    recorder = folder / "recorder"
    recorder.write_text("#!/bin/sh\ncat >request.json\necho '{}'\n", encoding="utf-8")
    recorder.chmod(0o755)
    configure(
        folder,
        cmd=recorder,
        schema=FIXTURE / "refused_schema.sql",
        queries=FIXTURE / "refused.sql",
    )
    answer = sqlc("generate", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    return parse(json.loads((folder / "request.json").read_text(encoding="utf-8")))


def test_the_generated_code_is_what_the_statements_say() -> None:
    answer = sqlc("diff", "-f", "tests/tools/sqlc_plugin/sqlc.yaml", cwd=ROOT)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_two_runs_write_the_same_text(tmp_path: Path) -> None:
    configure(
        tmp_path,
        cmd=PLUGIN / "sqlc-gen-python-asyncpg",
        schema=FIXTURE / "schema.sql",
        queries=FIXTURE / "queries",
    )
    assert sqlc("generate", cwd=tmp_path).returncode == 0

    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "gen").iterdir()}
    golden = {path.name: path.read_text("utf-8") for path in (FIXTURE / "gen").glob("*.py")}
    assert written == golden


REFUSALS: Final[Mapping[str, str]] = {
    "UnknownType": "column seen_at has the type timestamp, which is not known. Use timestamptz",
    "UnknownDomain": "column age has the type age, which is not known. Cast it in the SQL",
    "UnknownParameterType": "parameter when_ has the type timestamp",
    "NoCast": "column a has the type any, which is not known. Cast it in the SQL",
    "UnsureFunction": "column starts is a function's result",
    "Aggregate": "column top: max() of no rows is NULL",
    "FilteredAggregate": "column top: sum() of no rows is NULL",
    "Subselect": "column other: a subselect may find nothing",
    "CaseWithoutElse": "column word: CASE without ELSE is NULL",
    "JsonMember": "column member: a JSON member may be missing",
    "LeftJoinedSubselect": "column label: x is left-joined",
    "LeftJoinedCast": "column label: x is left-joined",
    "LeftJoinedEmbed": "sqlc.embed(others) beside an outer join may be a row of NULLs",
    "Positional": "parameter $1 has no name. Write @name.",
    "OperatorAfterName": "an operator follows an @name. Write sqlc.arg(name)::type + 1.",
    "AnyOfScalar": "parameter ids in ANY(…) is no array to sqlc. Write ANY(@ids::type[]).",
    "BareUnnest": "sqlc expands SELECT * FROM unnest(…) to a single column",
    "Merged": "sqlc left @label in the text",
    "TwoOfAName": "two columns are named id. Rename one",
    "Nameless": "column 2 has no name. Give it one",
    "SaysNothing": "has the type void, which is not known. It says nothing: use :exec.",
    "TwoDimensions": "column grid is an array of 2 dimensions",
    "BatchCommand": "command :batchexec is not supported. Use :one :many :exec :execrows :copyfrom",
}


def test_every_refused_statement_has_its_sentence(refused: Request) -> None:
    assert {query.name for query in refused.queries} == set(REFUSALS)


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_certain_is_refused_with_a_way_out(name: str, refused: Request) -> None:
    [query] = [query for query in refused.queries if query.name == name]

    with pytest.raises(Refusal) as refusal:
        decide(query, refused)

    assert str(refusal.value).startswith(f"refused.sql: {name}: ")
    assert REFUSALS[name] in str(refusal.value)


def test_a_refusal_ends_sqlc_with_the_file_the_query_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "ages.sql").write_text(
        "-- name: ListAges :many\nSELECT age FROM odd_ones;\n", encoding="utf-8"
    )
    configure(
        tmp_path,
        cmd=PLUGIN / "sqlc-gen-python-asyncpg",
        schema=FIXTURE / "refused_schema.sql",
        queries=tmp_path / "ages.sql",
    )
    answer = sqlc("generate", cwd=tmp_path)

    assert answer.returncode != 0
    assert "ages.sql: ListAges: column age has the type age, which is not known" in answer.stderr
    assert not (tmp_path / "gen").exists()


def test_names_that_would_be_the_same_in_python_are_refused(refused: Request) -> None:
    def lock(name: str, filename: str) -> Query:
        text = "SELECT 1"
        return Query(name, ":exec", text, filename, (), (), (), None)

    def refusal(*queries: Query) -> str:
        with pytest.raises(Refusal) as caught:
            generate(Request(refused.tables, refused.enums, queries))
        return str(caught.value)

    assert "is get_url like" in refusal(lock("GetURL", "a.sql"), lock("GetUrl", "a.sql"))
    assert "would both be a_b.py" in refusal(lock("A", "a-b.sql"), lock("B", "a_b.sql"))
    assert "models.py is the plugin's own" in refusal(lock("A", "models.sql"))


def test_vet_finds_what_breaks_a_rule_and_lets_the_rest_through(tmp_path: Path) -> None:
    text = (ROOT / "sqlc.yaml").read_text(encoding="utf-8")
    for own, fixture in {
        "- queries/migrations": f"- {os.path.relpath(FIXTURE / 'schema.sql', tmp_path)}",
        "- tools/": f"- {os.path.relpath(ROOT, tmp_path)}/tools/",
        "queries: queries": f"queries: {os.path.relpath(FIXTURE / 'vet.sql', tmp_path)}",
    }.items():
        assert own in text
        text = text.replace(own, fixture)
    (tmp_path / "sqlc.yaml").write_text(text, encoding="utf-8")

    answer = sqlc("vet", cwd=tmp_path)

    found = re.findall(r"vet\.sql: (\w+): ([a-z-]+):", answer.stderr)
    assert sorted(found) == [
        ("DeleteAll", "delete-needs-where"),
        ("Empty", "no-truncate"),
        ("LockAll", "lock-without-key"),
        ("SkipPages", "keyset-not-offset"),
        ("UpdateAll", "update-needs-where"),
    ]


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("SELECT coalesce(max(a), 0)::bigint AS n FROM t", None),
        ("SELECT max(a)::bigint AS n FROM t GROUP BY b", None),
        ("SELECT (SELECT count(*) FROM t) AS n", None),
        ("SELECT (SELECT coalesce(max(a), 0) FROM t)::int AS n", None),
        ("SELECT EXISTS (SELECT 1 FROM t) AS n", None),
        ("SELECT ARRAY(SELECT a FROM t)::int[] AS n", None),
        ("SELECT (CASE WHEN a THEN 1 ELSE 2 END)::int AS n FROM t", None),
        ("SELECT t.n FROM u LEFT JOIN t2 x ON x.n = t.n", None),
        ("SELECT t.n::uuid AS n FROM unnest($1) AS t (n) LEFT JOIN u ON u.n = t.n", None),
        ("SELECT max(a)::bigint AS other, b AS n FROM t", None),
        ("SELECT max(a)::bigint AS n -- (\nFROM t", "max() of no rows is NULL"),
        ("SELECT (SELECT max(a) FROM t)::int AS n", "a subselect may find nothing"),
        ("SELECT lag(a) OVER (ORDER BY b)::int AS n FROM t", "lag() may find nothing"),
        ("SELECT array_agg(a)::int[] as n FROM t", "array_agg() of no rows is NULL"),
        ("SELECT (d #>> '{a,b}'::text[])::text AS n FROM t", "a JSON member may be missing"),
        ("SELECT x.n FROM u LEFT JOIN LATERAL (SELECT n FROM v) AS x ON true", "x is left-joined"),
        ("SELECT a, t.n::int AS n FROM u LEFT JOIN t USING (a)", "t is left-joined"),
    ],
)
def test_a_null_that_the_text_shows_is_found(expression: str, why: str | None) -> None:
    assert nullability.why_null(expression, "n") == why


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("invoices", "Invoice"),
        ("usage_records", "UsageRecord"),
        ("retry_policies", "RetryPolicy"),
        ("ip_addresses", "IpAddress"),
        ("webhook_status", "WebhookStatus"),
        ("billing_cycles", "BillingCycle"),
        ("taxes", "Tax"),
        ("outbox", "Outbox"),
        ("api_keys", "ApiKey"),
    ],
)
def test_a_row_has_the_singular_name_of_its_table(table: str, model: str) -> None:
    assert names.model_name(table) == model
