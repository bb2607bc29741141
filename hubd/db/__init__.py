"""The databases of the hub: SQLite files when nothing is configured, PostgreSQL by URL.

Everything that depends on which of them it is belongs here, so that the rooms of owned state
(`hubd/owned`, `hubd/registry`) and of derived state (`hubd/state`, `hubd/project`) know none of it:

    engine.py      opening an engine by path or URL; when a transaction begins and whom it keeps out
    dialect.py     statements and types that differ: upsert, text
    faults.py      what an error means: damaged, locked, full, away...
    limits.py      stopping a statement that takes too long or that nobody waits for any more
    postgresql.py  a connection of psycopg whose statements can be stopped
    migrations.py  how far tables are with their numbered scripts, and the way on
    hold.py        a lock that lasts as long as its holder, who can be named
    upkeep.py      a place for tables; a file that is whole by itself

What is in the tables, and what becomes of a damaged or foreign one, does not belong here.
"""
