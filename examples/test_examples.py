"""Tests of the two examples under every start method."""

import multiprocessing
import pathlib
import re
import subprocess
import sys

import insert_records
import pytest

HERE = pathlib.Path(__file__).parent
TIMEOUT = 100  # seconds
ROW = r"^{} +[0-9.]+ s +[0-9.]+ s +(unknown|[0-9]+ MB)$"


def run(example, *args):
    done = subprocess.run(
        [sys.executable, str(HERE / example), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_count_bits(start_method):
    printed = run("count_bits.py", "--start-method", start_method)
    first_line, head, *rows = printed.splitlines()
    assert first_line == f"524288 bits, 65536 entries, 4 workers, started by {start_method}"
    assert head.split() == ["first", "call", "second", "call", "memory"]
    for row, name in zip(rows, ["a global", "initret "]):
        assert re.match(ROW.format(name), row)
    assert len(rows) == 2


@pytest.mark.parametrize("entries, bits", [(1, 0), (3, 2), (2**17, 8 * 2**16)])
def test_count_bits_of_another_table(entries, bits):
    # At most 2**16 numbers are looked up: in the largest table, the even ones.
    assert run("count_bits.py", "--entries", entries).startswith(f"{bits} bits, ")


def test_count_bits_fits_80_columns():
    printed = run("count_bits.py", "--entries", 10**6)
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_insert_records(start_method):
    printed = run("insert_records.py", "--records", 300, "--start-method", start_method)
    assert printed.startswith("300 rows in sqlite, each exactly once")


def test_insert_records_by_one_worker():
    printed = run("insert_records.py", "--records", 100, "--processes", 1)
    assert printed.endswith("by 1 workers with 1 connections\n")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda records: records[1:], "1 rows are missing, 0 are surplus"),
        (lambda records: records + records[:1], "0 rows are missing, 1 are surplus"),
        (lambda records: records[1:] + records[-1:], "1 rows are missing, 1 are surplus"),
    ],
)
def test_a_wrong_row_is_reported(tmp_path, wrong, message):
    engine = insert_records.make_engine("sqlite:///{}".format(tmp_path / "characters.db"))
    records = insert_records.named_characters(10)
    insert_records.characters.create(engine)
    with engine.begin() as connection:
        connection.execute(insert_records.characters.insert(), wrong(records))
    with pytest.raises(SystemExit, match=message):
        insert_records.check(records, engine)
    engine.dispose()


def test_records_are_real():
    records = insert_records.named_characters(3000)
    assert len(records) == len({record["code_point"] for record in records}) == 3000
    assert records[0] == {"code_point": 32, "name": "SPACE", "category": "Zs"}
    assert len({record["category"] for record in records}) > 10
