"""Helpers that the tests of initargs and of memory share."""

import ctypes
import multiprocessing
import os
import pickle
import sys
import tempfile
from multiprocessing import reduction

import multiprocessing_initret
import pytest
from conftest import TIMEOUT
from multiprocessing_initret._shared import initargs

SHARES = initargs.PICKLES_ONCE

shared_only = pytest.mark.skipif(not SHARES, reason="this Python sends a copy to each worker")

MIB = 2**20


class Buffers:
    """An object that pickles its buffers out of band, as NumPy arrays and data frames do."""

    def __init__(self, *buffers):
        self.buffers = buffers

    def __reduce_ex__(self, protocol):
        buffers = self.buffers
        return Buffers, tuple(map(pickle.PickleBuffer, buffers)) if protocol >= 5 else buffers

    def contents(self):
        return [bytes(buffer) for buffer in self.buffers]


class Releasable:
    """An object to which there can be weak references."""


def return_one(value):
    return value


def return_all(*args):
    return args


def get(item, initret):
    return initret


def equals(item, initret):
    return item == initret


def contents(item, initret):
    return [obj.contents() for obj in initret]


def worker(item, initret):
    return os.getpid()


def pool_of(start_method, *args, **kwds):
    context = multiprocessing.get_context(start_method)
    return multiprocessing_initret.Pool(*args, context=context, expect_initret=True, **kwds)


def call(pool, func, item=None):
    return pool.apply_async(func, (item,)).get(TIMEOUT)


def call_each(pool, func, items):
    return pool.map_async(func, items, chunksize=1).get(TIMEOUT)


def call_in_pool(start_method, obj, func, item=None, initializer=return_one):
    with pool_of(start_method, 1, initializer, (obj,)) as pool:
        return call(pool, func, item)


@pytest.fixture(params=["memory", "temporary file", "copy"])
def transport(request, monkeypatch, tmp_path):
    """How initargs are transferred to a process that does not inherit them."""
    if request.param == "copy":
        monkeypatch.setattr(initargs, "PICKLES_ONCE", False)
    elif not SHARES:
        pytest.skip("this Python sends a copy to each worker")
    elif os.name == "nt":
        if request.param == "temporary file":
            pytest.skip("a mapping on Windows has a name and no file")
    elif request.param == "temporary file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no anonymous memory")
    yield request.param
    # The directory of multiprocessing contains the socket of the fork server.
    assert [name for name in os.listdir(str(tmp_path)) if not name.startswith("pymp-")] == []


def mapping(buffer):
    """Return the entry of /proc/self/smaps for the mapping that contains a writable buffer."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    found = {}
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            name, *values = line.split()
            if not name.endswith(":"):
                start, end = (int(number, 16) for number in name.split("-"))
                if found:
                    break
                if start <= address < end:
                    found.update(access=values[0], file=(values[2], values[3]))
            elif found and values[-1:] == ["kB"]:
                found[name[:-1]] = int(values[0])
    return found


def is_shared(buffer):
    """Return whether a buffer is in a file mapping of which this process has copied nothing."""
    if not SHARES or not sys.platform.startswith("linux"):
        return True  # it cannot be determined
    found = mapping(buffer)
    return found["file"][1] != "0" and found["Anonymous"] == 0


class Registered:
    """An object with a reducer registered with multiprocessing."""

    def __init__(self, name):
        self.name = name


def reduce_registered(obj):
    spawning = multiprocessing.context.get_spawning_popen() is not None
    return Registered, (f"{obj.name}, for a process: {spawning}",)


reduction.register(Registered, reduce_registered)
