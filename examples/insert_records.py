"""Insert records into a database, each worker through its own engine.

The first pattern of gh-79018: a SQLAlchemy engine cannot be pickled, and processes must not
share one.  So each worker creates an engine, and passes it to every call of insert_record()
as `initret`.  The records are the named characters of the Unicode character database.

    python insert_records.py
    python insert_records.py --url postgresql+psycopg://user:password@host/database
    python insert_records.py --cluster auto

On a cluster of several machines, all of them must be able to connect to the database.
"""

import argparse
import collections
import functools
import itertools
import multiprocessing
import os
import sys
import tempfile
import unicodedata

import multiprocessing_initret
import sqlalchemy
from tqdm import tqdm

multiprocessing_initret.install()

characters = sqlalchemy.Table(
    "initret_example_characters",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("code_point", sqlalchemy.Integer, nullable=False),
    sqlalchemy.Column("name", sqlalchemy.String(100), nullable=False),
    sqlalchemy.Column("category", sqlalchemy.String(2), nullable=False),
)


def make_engine(url):
    """Create an engine, in each worker (as its initializer) and in the parent."""
    # SQLite allows one writer at a time; the others wait for up to this many seconds.
    connect_args = {"timeout": 60} if url.startswith("sqlite") else {}
    return sqlalchemy.create_engine(url, connect_args=connect_args)


def insert_record(record, initret):
    """Insert one row, and return the IDs of the process and of its connection."""
    with initret.begin() as connection:
        connection.execute(characters.insert(), record)
        return os.getpid(), id(connection.connection.dbapi_connection)


def named_characters(count):
    """Return the first `count` records of the Unicode character database."""
    points = (point for point in range(sys.maxunicode + 1) if unicodedata.name(chr(point), ""))
    return [
        {
            "code_point": point,
            "name": unicodedata.name(chr(point)),
            "category": unicodedata.category(chr(point)),
        }
        for point in itertools.islice(points, count)
    ]


def insert_all(records, url, processes, pool):
    """Insert the records in a pool, and return the pairs of process and connection."""
    with pool(processes, make_engine, (url,), expect_initret=True) as workers:
        done = workers.imap_unordered(insert_record, records)
        used = set(tqdm(done, total=len(records), unit=" records"))
        workers.close()
        workers.join()  # so that workers exit normally, and close their connections
    return used


def check(records, engine):
    """Exit with a message unless the database contains each record exactly once."""
    with engine.connect() as connection:
        rows = collections.Counter(map(tuple, connection.execute(sqlalchemy.select(characters))))
    expected = collections.Counter(tuple(record.values()) for record in records)
    missing, surplus = expected - rows, rows - expected
    if missing or surplus:
        sys.exit(f"{sum(missing.values())} rows are missing, {sum(surplus.values())} are surplus")
    return sum(rows.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the database, for SQLAlchemy (default: a SQLite file)")
    parser.add_argument("--records", type=int, default=3000, help="how many (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=4, help="workers (default: %(default)s)")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods())
    parser.add_argument("--cluster", metavar="ADDRESS", help="of Ray: auto, local or host:port")
    options = parser.parse_args()
    if options.cluster:
        from multiprocessing_initret.ray import Pool

        pool = functools.partial(Pool, ray_address=options.cluster)
    else:
        pool = multiprocessing.get_context(options.start_method).Pool

    with tempfile.TemporaryDirectory() as directory:
        url = options.url or "sqlite:///" + os.path.join(directory, "characters.db")
        engine = make_engine(url)
        characters.drop(engine, checkfirst=True)
        characters.create(engine)
        engine.dispose()  # forked workers would inherit open connections
        records = named_characters(options.records)
        used = insert_all(records, url, options.processes, pool)
        rows = check(records, engine)
        characters.drop(engine)
        engine.dispose()
    workers = {worker for worker, _ in used}
    print(
        f"{rows} rows in {engine.dialect.name}, each exactly once, "
        f"by {len(workers)} workers with {len(used)} connections"
    )


if __name__ == "__main__":
    main()
