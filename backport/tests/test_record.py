"""Records of workers, in memory that outlives them."""

import multiprocessing
import os

import pytest
from multiprocessing_initret._shared import record
from multiprocessing_initret._shared.record import (
    HOLDING,
    INITIALIZING,
    MESSAGES_READ,
    READING,
    RUNNING,
    STARTING,
    STOPPING,
    WAITING,
    Records,
)
from pool_support import FORK_SERVER_REPORTS_SIGNALS

STATES = [STARTING, INITIALIZING, WAITING, READING, HOLDING, RUNNING]


@pytest.fixture
def records():
    return Records("multiprocessing", 3)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("number", [0, 1, 2**60 - 1])
def test_state_and_number(records, state, number):
    one, other = records.acquire(), records.acquire()
    one.set(state, number)
    assert one.read() == (state, number) and one.state == state
    assert other.read() == (STARTING, 0)


def test_states_differ():
    assert len(set(STATES)) == len(STATES)
    assert max(STATES) <= record._STATE_MASK


def test_number_is_zero_by_default(records):
    one = records.acquire()
    one.set(READING, 7)
    one.set(WAITING)
    assert one.read() == (WAITING, 0)


def test_acquire_and_release(records):
    """A record that is used again begins anew, and none is used twice."""
    used = [records.acquire() for _ in range(3)]
    assert len({one.index for one in used}) == 3
    with pytest.raises(IndexError):
        records.acquire()
    used[1].set(RUNNING, 5)
    records.release(used[1])
    again = records.acquire()
    assert again.index == used[1].index and again.read() == (STARTING, 0)


def test_integers_of_the_pool_are_no_records(records):
    for _ in range(3):
        records.acquire().set(RUNNING, 3)
    assert MESSAGES_READ != STOPPING
    assert records.integers[MESSAGES_READ] == records.integers[STOPPING] == 0


def write_and_die(one):
    one.set(READING, 12)
    one.records.integers[MESSAGES_READ] = 11
    os._exit(3)


def test_what_a_process_has_written_outlives_it(records, start_method):
    one, other = records.acquire(), records.acquire()
    context = multiprocessing.get_context(start_method)
    process = context.Process(target=write_and_die, args=(other,))
    process.start()
    process.join()
    if FORK_SERVER_REPORTS_SIGNALS or start_method != "forkserver":
        assert process.exitcode == 3
    assert one.read() == (STARTING, 0) and other.read() == (READING, 12)
    assert records.integers[MESSAGES_READ] == 11
