"""Ray's ``multiprocessing.Pool``, with ``expect_initret``: past one machine.

On Ray an initializer that sets a global has no effect, since Ray pickles each
function of ``__main__`` with globals of its own.  What the initializer returned
is kept by the actor, and reaches every function that runs there.

Source: gh-79018 and https://docs.ray.io/en/latest/ray-more-libs/multiprocessing.html
"""

import functools
import threading
from multiprocessing import util
from multiprocessing.pool import (  # type: ignore[attr-defined]
    ExceptionWithTraceback,
    MaybeEncodingError,
    RemoteTraceback,
)
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional, Tuple

from ._broadcast import Broadcast, broadcast

if TYPE_CHECKING:
    # Who checks types need not have Ray, most of which has none to offer.
    ray: Any
    _pool: Any
else:
    try:
        import ray
        from ray.util.multiprocessing import pool as _pool
    except ModuleNotFoundError as error:
        raise ImportError(
            "multiprocessing_initret.ray needs Ray: pip install multiprocessing-initret[ray]"
        ) from error

__all__ = ["Pool"]

_registering = threading.Lock()


def _put(obj: object) -> Any:
    """Store an object, with each Broadcast in it as the object that it shares.

    A Broadcast refuses to be pickled, for it would travel with each task.  Here
    it is stored once, and Ray leaves arrays where they are for all to read.
    """
    with _registering:
        ray.util.register_serializer(
            Broadcast, serializer=attrgetter("value"), deserializer=broadcast
        )
        try:
            return ray.put(obj)
        finally:
            ray.util.deregister_serializer(Broadcast)


def _outcome(error: Exception) -> Any:
    """Make of an exception what arrives as that exception, with its traceback."""
    sent = error
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
    except Exception as reason:
        sent = MaybeEncodingError(reason, error)
    return ExceptionWithTraceback(sent, error.__traceback__)


class _PoolActor:
    """What a Pool asks of its actors, with each function bound to initret."""

    def __init__(self, initialize: Callable[[], object], _: None) -> None:
        self._initialize: Optional[Callable[[], object]] = initialize
        self._initret: object = None
        try:
            self._get_initret()
        except Exception as error:
            # An actor that left would not be replaced, and its tasks would be lost.
            util.info("initializer failed, the next task runs it again: %r", error)

    def _get_initret(self) -> object:
        initialize = self._initialize
        if initialize is not None:
            self._initret = initialize()
            self._initialize = None  # and the arguments with it
        return self._initret

    def ping(self) -> None:
        """Return, once the actor has started."""

    def run_batch(
        self, func: Callable[..., Any], batch: List[Tuple[Any, Optional[Dict[str, Any]]]]
    ) -> List[Any]:
        try:
            initret = self._get_initret()
        except Exception as error:
            return [_outcome(error)] * len(batch)

        def run(args: Any, kwargs: Optional[Dict[str, Any]]) -> Any:
            try:
                return func(*(args or ()), initret=initret, **(kwargs or {}))
            except Exception as error:
                return _outcome(error)

        return [run(args, kwargs) for args, kwargs in batch]


class _RaisingIterator(_pool.IMapIterator):  # type: ignore[misc]
    """Ray's iterator hands exceptions over as results: this one raises them."""

    _failure: Optional[Exception] = None

    def _submit_next_chunk(self) -> None:
        try:
            super()._submit_next_chunk()
        except Exception as error:
            # Of the iterable. Left alone it would take the result with it that
            # has just arrived, and a later next() would wait for that for ever.
            self._failure = error
            self._finished_iterating = True

    def next(self, timeout: Optional[float] = None) -> Any:
        try:
            outcome = super().next(timeout)
        except StopIteration:
            outcome, self._failure = self._failure, None
            if outcome is None:
                raise
        else:
            # An exception that a task returned is a result like any other; it
            # has no cause, for pickling drops that.
            if not isinstance(outcome, ray.exceptions.RayError) and not isinstance(
                getattr(outcome, "__cause__", None), RemoteTraceback
            ):
                return outcome
        raise outcome


class _OrderedIterator(_RaisingIterator, _pool.OrderedIMapIterator):  # type: ignore[misc]
    pass


class _UnorderedIterator(_RaisingIterator, _pool.UnorderedIMapIterator):  # type: ignore[misc]
    pass


class Pool(_pool.Pool):  # type: ignore[misc]
    """A :class:`ray.util.multiprocessing.Pool` that takes ``expect_initret``.

    :param processes: number of actors, by default that of the cluster's CPUs
    :param initializer: called as ``initializer(*initargs)`` in each actor when
        it starts
    :param initargs: the initializer's arguments.  With ``expect_initret`` they
        go into Ray's object store once, and NumPy arrays among them are read
        there without a copy: as arrays that cannot be written to.  Where the
        initializer is given a ``Broadcast``, the same holds for its ``value``.
    :param maxtasksperchild: number of tasks, or chunks, after which an actor is
        replaced, by default never
    :param context: not used by Ray
    :param ray_address: the cluster's address, as for ``ray.init()``
    :param ray_remote_args: options of the actors, as for ``ray.remote()``
    :param expect_initret: whether each function the pool runs is called with
        what the initializer returned in that actor, as the keyword argument
        ``initret``.  An initializer that raises is run again for each task, or
        chunk, until it succeeds, and its exception is that task's outcome.
    :raises ValueError: with ``expect_initret`` and no initializer

    A task of an actor that died or whose node was lost raises a
    :exc:`ray.exceptions.RayActorError`.

    Source: gh-79018 and https://docs.ray.io/en/latest/ray-more-libs/multiprocessing.html
    """

    _initializer: Any
    _initargs: Any
    _pool_actor: Any

    def __init__(
        self,
        processes: Optional[int] = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: Optional[Iterable[Any]] = None,
        maxtasksperchild: Optional[int] = None,
        context: Any = None,
        ray_address: Optional[str] = None,
        ray_remote_args: Optional[Dict[str, Any]] = None,
        *,
        expect_initret: bool = False,
    ) -> None:
        if expect_initret and initializer is None:
            raise ValueError("expect_initret requires an initializer")
        self._expect_initret = expect_initret
        super().__init__(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            context,
            ray_address,
            ray_remote_args,
        )

    def _new_actor_entry(self) -> Any:
        if self._expect_initret and not self._pool_actor:
            # The first actor is about to be made, and Ray has been started. What
            # is passed to an actor by reference arrives there as the object.
            initargs = () if self._initargs is None else self._initargs
            self._initializer = _put(functools.partial(self._initializer, *initargs))
            self._initargs = None
            # As Ray's own actors, these need no CPU to themselves.
            self._pool_actor = ray.remote(num_cpus=0)(_PoolActor).options(**self._ray_remote_args)
        return super()._new_actor_entry()

    def imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: Optional[int] = 1
    ) -> Any:
        """Do as Ray's ``imap()``; with ``expect_initret``, raise what a task raised."""
        if not self._expect_initret:
            return super().imap(func, iterable, chunksize)
        self._check_running()
        return _OrderedIterator(self, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: Optional[int] = 1
    ) -> Any:
        """Do as Ray's ``imap_unordered()``; with ``expect_initret``, raise what a task raised."""
        if not self._expect_initret:
            return super().imap_unordered(func, iterable, chunksize)
        self._check_running()
        return _UnorderedIterator(self, func, iterable, chunksize)
