"""The figures that people read are those of the results' files.

Each sentence is made of what was measured, and must stand in its file.  After new
measurements a failure shows the sentence that belongs there.
"""

import pathlib

import pytest
from measure import ratio, saved

REPOSITORY = pathlib.Path(__file__).parent.parent
NEW = ["3.11", "3.12", "3.13", "3.14", "3.15"]
OLD = ["3.8", "3.9", "3.10"]


def of_way(name):
    """Return the time of a way over that of the stock pool with a global, once it has started."""
    ways = saved("ways")
    return ratio(ways[f"{name}: once more"][0], ways["Pool, a global: once more"][0])


def of_calls(python, delivery, pool, over="global", over_delivery=None):
    """Return the time of calls in chunks, in processes, of one Python over another way."""
    cost = saved("cost")

    def seconds(delivery, pool):
        what = f", {delivery}: processes, chunks, {pool}"
        [found] = (
            cost[name][0]
            for name in cost
            if name.startswith(f"CPython {python}.") and name.endswith(what)
        )
        return found

    return ratio(seconds(delivery, pool), seconds(over_delivery or delivery, over))


def about(figure):
    """Return two digits of a figure, which is what its sentence claims."""
    return f"{float(f'{figure:.2g}'):g}"


def span(pythons, *args):
    """Return the least and the most of some Pythons."""
    figures = [f"{of_calls(python, *args):.2f}" for python in pythons]
    return f"{min(figures)} to {max(figures)}"


PARTIAL = about(of_way("Pool, functools.partial"))
PARTIAL_64 = about(of_way("Pool, functools.partial, chunks of 64"))
LRU_CACHE = about(of_way("Pool, functools.lru_cache"))

SENTENCES = {
    "proposal.rst": [
        f"takes {PARTIAL} times as long as with a global, and {PARTIAL_64} times with"
        " ``chunksize=64``",
        f"{LRU_CACHE} times the time, and no ``initargs``",
        f"took {span(NEW, 'patch', 'initret')} times as long as with a global on 3.11 to 3.15, and"
        f" {span(OLD, 'patch', 'initret')} times on 3.8 to 3.10",
        f"With it off the time was {span(NEW, 'patch', 'global', 'global', 'stock')} of the stock"
        " interpreter's on 3.11 to 3.15",
    ],
    "backport/docs/alternatives.rst": [
        f"{PARTIAL} times the time of the work below, {PARTIAL_64} times with ``chunksize=64``",
        f"without ``initargs``: {LRU_CACHE} times the time",
    ],
}


@pytest.mark.parametrize(
    ("path", "sentence"), [(path, one) for path, all_of in SENTENCES.items() for one in all_of]
)
def test_a_figure_is_the_one_measured(path, sentence):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert sentence in " ".join(text.split())
