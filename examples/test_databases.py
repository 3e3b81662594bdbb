"""Tests of insert_records.py with PostgreSQL and MariaDB servers, started by the tests."""

import glob
import multiprocessing
import os
import shutil
import subprocess
import tempfile

import pytest
import sqlalchemy
from test_examples import TIMEOUT, run

# The servers refuse to run as root: each runs as the user that its package has created.
ROOT = hasattr(os, "getuid") and os.getuid() == 0


def as_user(name):
    return {"user": name} if ROOT else {}


def call(*command, user):
    subprocess.run(command, check=True, timeout=TIMEOUT, cwd="/", **as_user(user))


@pytest.fixture(scope="module")
def directory():
    # The users that the servers run as must have access.
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o777)
        yield path


@pytest.fixture(scope="module")
def postgresql(directory):
    found = shutil.which("pg_ctl") or max(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"), default="")
    if not found:
        pytest.skip("no PostgreSQL server is installed")
    programs, data = os.path.dirname(found), os.path.join(directory, "postgresql")
    initdb, pg_ctl = os.path.join(programs, "initdb"), os.path.join(programs, "pg_ctl")
    call(initdb, "-D", data, "-U", "example", "--auth=trust", user="postgres")
    options = f"-k {directory} -c listen_addresses=''"
    log = os.path.join(data, "log")
    call(pg_ctl, "start", "--wait", "-D", data, "-l", log, "-o", options, user="postgres")
    yield f"postgresql+psycopg://example@/postgres?host={directory}"
    call(pg_ctl, "stop", "-m", "immediate", "-D", data, user="postgres")


@pytest.fixture(scope="module")
def mariadb(directory):
    server = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
    if not server:
        pytest.skip("no MariaDB server is installed")
    data, unix_socket = os.path.join(directory, "mariadb"), os.path.join(directory, "mariadb.sock")
    location = ["--no-defaults", "--datadir=" + data]
    no_password = "--auth-root-authentication-method=normal"
    call("mariadb-install-db", *location, no_password, "--skip-test-db", user="mysql")
    address = ["--socket=" + unix_socket]
    process = subprocess.Popen(
        [server, *location, *address, "--skip-networking"], **as_user("mysql")
    )
    try:
        ping = ["mariadb-admin", "--no-defaults", "--user=root", "--wait=60", *address, "ping"]
        call(*ping, user="mysql")
        url = f"mariadb+pymysql://root@/{{}}?unix_socket={unix_socket}"
        engine = sqlalchemy.create_engine(url.format(""))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE DATABASE example"))
        engine.dispose()
        yield url.format("example")
    finally:
        process.terminate()
        process.wait(TIMEOUT)


@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_insert_records(request, database, start_method):
    url = request.getfixturevalue(database)
    printed = run("insert_records.py", "--url", url, "--start-method", start_method)
    assert printed.startswith(f"3000 rows in {database}, each exactly once")
    assert "with 4 connections" in printed
