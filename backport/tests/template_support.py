"""Helpers that the tests of templates share."""

import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import os
import tempfile

import pytest
from conftest import TIMEOUT, wait_until
from initargs_support import return_all
from multiprocessing_initret._parent import template
from multiprocessing_initret._shared import initargs
from pool_support import create_pool

HAS_FORK_SERVER = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT = HAS_FORK_SERVER and multiprocessing.get_context("forkserver")

marks = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_FORK_SERVER, reason="no fork server here"),
    pytest.mark.skipif(not initargs.PICKLES_ONCE, reason="this Python sends a copy to each worker"),
]


@pytest.fixture
def any_size(monkeypatch):
    """Make a template worthwhile for plain data of any size."""
    monkeypatch.setattr(template, "MINIMUM_SIZE", 1)


@pytest.fixture
def nothing_left(monkeypatch, short_tmp_path, tmp_path):
    """Check that no template, and no directory of one, is left after a test."""
    # The directories of pytest (tmp_path) and of the fork server stay.
    multiprocessing.forkserver.ensure_running()
    monkeypatch.setattr(tempfile, "tempdir", short_tmp_path)
    directory = multiprocessing.util.get_temp_dir()
    before = os.listdir(directory)
    yield
    wait_until(lambda: multiprocessing.active_children() == [], TIMEOUT / 4)
    assert os.listdir(short_tmp_path) == []
    assert os.listdir(directory) == before


def pool_of(*args, processes=2, initializer=return_all, **kwds):
    return create_pool("forkserver", processes, initializer, args, **kwds)


def call(pool, func, *args):
    return pool.apply_async(func, args).get(TIMEOUT)


def get(initret):
    return initret


def parent(initret):
    return os.getppid()


def uses_template(pool):
    return call(pool, parent) != multiprocessing.forkserver._forkserver._forkserver_pid


# Number of lists in a table.  A template calls gc.freeze() after loading initargs, so the freeze
# count in a worker shows whether the table was loaded before or after the fork.
ROWS = 10**5


def make_table():
    return [[number] for number in range(ROWS)]


def preloaded_tables(initret):
    """Return how many tables of make_table() the template of this worker has loaded."""
    return gc.get_freeze_count() // ROWS
