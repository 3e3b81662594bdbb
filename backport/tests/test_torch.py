"""Tests of install() with the pools of torch.multiprocessing, with tensors in CPU memory."""

import pytest
from conftest import TIMEOUT
from pool_support import add

torch = pytest.importorskip("torch")
multiprocessing = pytest.importorskip("torch.multiprocessing")
pool = pytest.importorskip("torch.multiprocessing.pool")
queue = pytest.importorskip("torch.multiprocessing.queue")


class TorchPool(pool.Pool):
    """The class of torch.multiprocessing.pool, with a fix.

    Torch's own class cannot be instantiated in any version of Python: it creates its queues and,
    since Python 3.8, its processes without a context (pytorch issue 16954).
    """

    def _setup_queues(self):
        self._inqueue = queue.SimpleQueue(ctx=self._ctx)
        self._outqueue = queue.SimpleQueue(ctx=self._ctx)
        self._quick_put = self._inqueue._writer.send
        self._quick_get = self._outqueue._reader.recv

    def Process(self, *args, **kwds):
        return self._ctx.Process(**kwds)


def return_table(table):
    return table


def count(index, initret):
    """Write to the table, which the parent shares."""
    initret[index] += 1
    return initret[index].item()


def fail(table):
    raise LookupError("no luck", table)


@pytest.fixture
def table():
    return torch.arange(5).share_memory_()


@pytest.fixture(params=["torch.multiprocessing.Pool", "torch.multiprocessing.pool.Pool"])
def make(request, installed, start_method):
    context = multiprocessing.get_context(start_method)

    def make(initializer, table):
        if request.param == "torch.multiprocessing.Pool":
            return context.Pool(1, initializer, (table,), expect_initret=True)
        return TorchPool(1, initializer, (table,), context=context, expect_initret=True)

    return make


def test_table_is_shared(make, table):
    with make(return_table, table) as one_worker:
        counted = one_worker.map_async(count, range(5), chunksize=1).get(TIMEOUT)
    assert counted == table.tolist() == [1, 2, 3, 4, 5]


def test_tensors_as_items(make, table):
    with make(return_table, table) as one_worker:
        result = one_worker.apply_async(add, (torch.ones(5, dtype=int),)).get(TIMEOUT)
        assert result.tolist() == [1, 2, 3, 4, 5]
        (result,) = one_worker.map_async(add, [torch.ones(5, dtype=int)]).get(TIMEOUT)
        assert result.tolist() == [1, 2, 3, 4, 5]


def test_failing_initializer(make, table):
    with make(fail, table) as one_worker:
        result = one_worker.map_async(add, [table])
        with pytest.raises(LookupError, match="no luck"):
            result.get(TIMEOUT)


def test_default_context(installed, table):
    with multiprocessing.Pool(1, return_table, (table,), expect_initret=True) as one_worker:
        assert one_worker.map_async(count, range(5)).get(TIMEOUT) == [1, 2, 3, 4, 5]
