"""sqlc-gen-python-asyncpg: the sqlc process plugin that turns queries/*.sql into gen/queries/.

It stands beside the paths, not on one: every path reaches PostgreSQL through what it writes.

Invariant: a query whose Python types are not certain is refused, never guessed. A guess would
surface as a wrong amount or a None far from the statement that caused it.

    request.py    what sqlc says (JSON on stdin), parsed once into frozen dataclasses
    pg_types.py   PostgreSQL type -> Python type, and how a value is converted
    names.py      SQL names -> Python names
    shapes.py     decide: parameters, row shape and refusals of one query
    emit.py       write: the text of one module per query file
    models.py     write: models.py (tables and enums that are used) and connection.py
    generate.py   the whole: request -> files
    verify.py     the proof: prepares every generated statement and compares PostgreSQL's types
    catalog.sql   what sqlc does not know of PostgreSQL (unnest of several arrays)
"""
