"""The initializer and initargs of a pool, which its workers share as far as they can."""

import pickle

from .argument_unpickler import open_pickle
from .packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, List, Optional, Sequence, Set, Tuple

    from .argument_pickle import ArgumentPickle

# Before Python 3.8 there are no out-of-band buffers (PEP 574) and no reducer_override():
# everything is pickled for each worker.
PICKLES_ONCE = pickle.HIGHEST_PROTOCOL >= 5


class InitArgs:
    """The initializer and initargs of a pool, pickled once for all its workers.

    A forked worker inherits the objects.  A non-forked one receives this object when it starts,
    and not in any other way.  Out-of-band buffers (NumPy arrays, Arrow tables, data frames)
    are then in memory once for all workers, until a worker writes to its own.

    :param objects: any objects that multiprocessing could pass to a process
    :param package: name of the package that starts the processes
    """

    def __init__(self, objects: "Iterable[Any]", package: str = "multiprocessing") -> None:
        self._objects: "Any" = tuple(objects)
        self._package = package
        self._pickle: "Optional[ArgumentPickle]" = None

    def load(self) -> "Tuple[Any, ...]":
        """Return the objects.

        :raises Exception: if they cannot be unpickled, on each call
        """
        objects: "Tuple[Any, ...]" = self._objects
        return objects

    def pickle(self) -> "ArgumentPickle":
        """Return the pickle, which is made on the first call."""
        if self._pickle is None:
            # Workers do not pickle, and so need not import this.
            from .argument_pickle import ArgumentPickle

            # Objects that only the process could receive that is being started, if any,
            # must not be in the pickle.
            context = module(self._package, "context")
            popen = context.get_spawning_popen()
            context.set_spawning_popen(None)
            try:
                self._pickle = ArgumentPickle(self._objects, self._package)
            finally:
                context.set_spawning_popen(popen)
        return self._pickle

    def close(self) -> None:
        """Release the objects and their memory.  No worker can be started any more."""
        self._objects = self._pickle = None

    def __reduce__(self) -> "Tuple[Callable[..., ReceivedInitArgs], Tuple[Any, ...]]":
        module(self._package, "context").assert_spawning(self)
        apart: "List[Any]" = [self._objects]
        location: "Tuple[Any, ...]" = ()
        if PICKLES_ONCE:
            made = self.pickle()
            apart, location = made.apart, (made.memory, made.index, made.order)
        # A pickle within that of the process: the worker reports an error in unpickling
        # these objects as it reports one in unpickling the others.
        pickled = bytes(module(self._package, "reduction").ForkingPickler.dumps(apart))
        return ReceivedInitArgs, (self._package, pickled, *location)


# In a template, and in its workers until they have received their InitArgs: the unpickler,
# and the objects that the template has loaded.
_preloaded: "Optional[Tuple[Any, List[Any]]]" = None


class ReceivedInitArgs(InitArgs):
    """An :class:`InitArgs` in a non-forked worker."""

    def __init__(
        self,
        package: str,
        apart: bytes,
        memory: "Any" = None,
        index: int = 0,
        order: "Sequence[int]" = (),
    ) -> None:
        global _preloaded
        super().__init__((), package)
        self._apart: "Any" = apart
        self._memory, self._index, self._order = memory, index, order
        self._preloaded, _preloaded = _preloaded, None

    def load(self) -> "Tuple[Any, ...]":
        if not self._objects:
            if isinstance(self._apart, bytes):
                self._apart = module(self._package, "reduction").ForkingPickler.loads(self._apart)
            self._objects = self._load_from_memory() if self._memory else tuple(self._apart[0])
        objects: "Tuple[Any, ...]" = self._objects
        return objects

    def _load_from_memory(self) -> "Tuple[Any, ...]":
        # The unpickler of a template is kept.  It refers to everything that it has loaded,
        # and releasing those objects would write to, and so copy, all their memory.
        unpickler, objects = self._preloaded or open_pickle(
            self._package, self._memory, self._index
        )
        unpickler.apart = self._apart
        try:
            while len(objects) < len(self._order):
                objects.append(unpickler.load())
        except BaseException:
            self._preloaded = None  # the unpickler has stopped inside an object
            raise
        finally:
            unpickler.apart = ()
        self._memory.close()
        return tuple(objects[self._order.index(i)] for i in range(len(self._order)))


def preload(
    package: str,
    memory: "Any",
    index: int,
    plain: "Sequence[Tuple[int, Set[Tuple[str, str]]]]",
    minimum: int,
) -> bool:
    """Load plain data in a template, for the workers that are forked from it.

    :param plain: see :class:`ArgumentPickle`
    :param minimum: size of the streams, in bytes, that is worth a template
    :returns: whether that much can be loaded without an import
    """
    from .plain_data import find_plain_global

    global _preloaded
    size = count = 0
    for end, needed in plain:
        try:
            for names in needed:
                find_plain_global(*names)
        except pickle.UnpicklingError:
            break
        size, count = end, count + 1
    if size < minimum:
        return False
    unpickler, objects = open_pickle(package, memory, index)
    unpickler.find_global = find_plain_global
    while len(objects) < count:
        objects.append(unpickler.load())
    del unpickler.find_global
    _preloaded = unpickler, objects
    return True
