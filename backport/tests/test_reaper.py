"""Counts of workers that exit while they are starting: many in a row break the pool."""

import signal
import types

import pytest
from multiprocessing_initret._parent import reaper
from multiprocessing_initret._shared.record import READING, RUNNING, STARTING, Records

SIZE = 4


class Worker:
    """What a reaper needs to know of a worker."""

    def __init__(self, record, generation, exitcode=None, start_method="spawn"):
        self.record = record
        self.channel = types.SimpleNamespace(record=record)
        self.generation = generation
        self.exitcode = exitcode
        self.start_method = start_method


class Pool:
    """A reaper, whose workers exit as the tests say."""

    def __init__(self, size=SIZE):
        self._records = Records("multiprocessing", max(size, reaper._MAX_KILLED_AT_START))
        collector = types.SimpleNamespace(remove_worker=lambda worker, number: None)
        self.reaper = reaper.Reaper(lambda: size, self._records, None, collector)

    def start(self, state=STARTING, **kwds):
        worker = Worker(self._records.acquire(), self.reaper.generation, **kwds)
        worker.record.set(state)
        self.reaper.workers.append(worker)
        return worker

    def lose_generation(self, count=SIZE, **kwds):
        """Start workers that exit, and return why the pool must break."""
        return self.reaper.reap([self.start(**kwds) for _ in range(count)], is_broken=False)


@pytest.fixture
def pool():
    return Pool()


def test_failing_workers(pool):
    """They fail as often as it takes to tell them from workers that Ctrl-C has interrupted."""
    for _ in range(reaper._MAX_GENERATIONS - 1):
        assert not pool.lose_generation(exitcode=1)
    assert "workers in a row exited while" in pool.lose_generation(exitcode=1)


def test_one_worker_fails_again_and_again(pool):
    for _ in range(SIZE - 1):
        assert not pool.lose_generation(exitcode=1, count=1)
    assert pool.lose_generation(exitcode=1, count=1)


@pytest.mark.parametrize(
    "how",
    [
        {"exitcode": -signal.SIGINT},
        # It does not import the main module, so that cannot have raised an exception.
        {"exitcode": 1, "start_method": "fork"},
    ],
    ids=["signal", "fork"],
)
def test_interrupted_workers(pool, how):
    assert not pool.lose_generation(exitcode=1)
    for _ in range(reaper._MAX_KILLED_AT_START // SIZE - 1):
        assert not pool.lose_generation(**how)
    assert pool.lose_generation(**how)


def test_interrupted_workers_of_a_large_pool():
    """Ctrl-C may have interrupted all of its first workers, and their replacements."""
    size = 2 * reaper._MAX_KILLED_AT_START
    pool = Pool(size)
    for _ in range(reaper._MAX_GENERATIONS - 1):
        assert not pool.lose_generation(size, exitcode=-signal.SIGINT)
    assert pool.lose_generation(size, exitcode=-signal.SIGINT)


def test_interrupted_workers_seem_to_fail(pool):
    for _ in range(2 * reaper._MAX_GENERATIONS):
        assert not pool.lose_generation(exitcode=1)
        assert not pool.lose_generation(exitcode=-signal.SIGINT, count=1)


def test_pool_has_another_worker(pool):
    pool.start(RUNNING)
    for _ in range(reaper._MAX_KILLED_AT_START):
        assert not pool.lose_generation(exitcode=1)
        assert not pool.lose_generation(exitcode=-signal.SIGINT)


def test_workers_that_have_started_end_the_row(pool):
    for _ in range(reaper._MAX_GENERATIONS):
        assert not pool.lose_generation(exitcode=1, count=SIZE - 1)
        assert not pool.lose_generation(exitcode=1, count=1, state=RUNNING)
    for _ in range(reaper._MAX_GENERATIONS - 1):
        assert not pool.lose_generation(exitcode=1)


def test_states_include_workers_that_are_being_started(pool):
    """Such a worker may hold the lock of the task pipe, which must not be released then."""
    pool.start(RUNNING)
    pool.reaper.starting += [pool.start(READING), pool.start()]
    for worker in pool.reaper.starting:
        pool.reaper.workers.remove(worker)
    del worker.channel.record  # the last one has none yet
    assert sorted(pool.reaper.states()) == [READING, RUNNING]
