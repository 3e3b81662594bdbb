"""A worker exits while it calls the initializer."""

import multiprocessing
import multiprocessing.connection
import os

from conftest import ends, wait_until
from pool_support import LEAVE, add, check, is_lost, leave, main_rows, outcome, outcomes, some_ways


def note(path):
    with open(path, "a") as file:
        file.write("1\n")


def notes(path):
    with open(path) as file:
        return len(file.readlines())


def note_and_leave(path, way):
    note(path)
    leave(way)


def note_and_leave_thrice(path, way):
    note(path)
    if notes(path) <= 3:
        leave(way)
    return 40


@main_rows
@some_ways
def test_worker_leaves_inside_the_initializer(make, tmp_path, way):
    path = str(tmp_path / "starts")
    size = 2
    pool = make(size, note_and_leave, (path, way))
    for number in range(1, 6):
        assert is_lost(outcome(pool.apply_async(add, (number,))), LEAVE[way][1])
        # Workers run it at first, and then for a task, and never in vain.
        assert number <= notes(path) <= number + size
    assert all(is_lost(error) for error in outcomes(pool.imap(add, range(5))))
    assert notes(path) <= 10 + size
    pool.close()
    ends(pool)
    assert notes(path) <= 10 + size


def test_an_idle_pool_starts_no_worker_in_vain(make, tmp_path):
    path = str(tmp_path / "starts")
    pool = make(2, note_and_leave, (path, "_exit"))

    def is_idle():
        workers = list(pool._pool)
        try:
            sentinels = [worker.sentinel for worker in workers]
        except ValueError:  # one has not started
            return False
        return len(workers) == 2 and not multiprocessing.connection.wait(sentinels, 0.5)

    wait_until(lambda: os.path.exists(path) and is_idle())
    assert notes(path) <= 2


def test_initializer_that_leaves_in_the_beginning(make, tmp_path):
    path = str(tmp_path / "starts")
    pool = make(1, note_and_leave_thrice, (path, "SIGKILL"))
    found = [outcome(pool.apply_async(add, (1,))) for _ in range(4)]
    assert [is_lost(item) for item in found] in ([True, True, False, False],)
    check(pool)
