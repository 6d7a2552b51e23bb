"""sqlc-gen-python-asyncpg: the sqlc process plugin that turns queries/*.sql into gen/queries/.

It stands beside the paths, not on one: every path reaches PostgreSQL through what it writes.

Invariant: a query whose Python types are not certain is refused, never guessed. A guess would
surface as a wrong amount or a None far from the statement that caused it.

    request.py      read: what sqlc says (JSON on stdin), parsed once into frozen dataclasses
    shapes.py       decide: parameters, row and refusals of one query
    nullability.py  decide: the NULLs that sqlc does not see
    pg_types.py     PostgreSQL type -> Python type, and how a value is converted
    names.py        SQL names -> Python names
    emit.py         write: one module per query file
    build.py        write: the expression that makes a row
    models.py       write: models.py (tables and enums that are used), connection.py, __init__.py
    layout.py       write: literals, docstrings, calls that fit a line
    generate.py     the whole: request -> files
    verify.py       the proof: prepares every statement and compares PostgreSQL's types with ours
    catalog.sql     what sqlc does not know of PostgreSQL (unnest of several arrays)
"""
