"""Tests that the figures in the documentation are those in the files of results.

Each sentence is made from the measurements, and must be in the named file.  After new
measurements, a failing test shows the sentence that must replace the old one.
"""

import pathlib

import pytest
from measure import ratio, saved

REPOSITORY = pathlib.Path(__file__).parent.parent
NEW = ["3.11", "3.12", "3.13", "3.14", "3.15"]
OLD = ["3.8", "3.9", "3.10"]


def of_alternative(name):
    """Return the time of an alternative over that of the standard Pool, with running workers."""
    results = saved("alternatives")
    return ratio(results[f"{name}: once more"][0], results["Pool, a global: once more"][0])


def of_calls(python, delivery, pool, over="global", over_delivery=None):
    """Return the time of calls in large chunks, in processes, over that of another pool."""
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
    """Return a figure with two significant digits, as its sentence has it."""
    return f"{float(f'{figure:.2g}'):g}"


def span(pythons, *args):
    """Return the range of the figures of some Pythons."""
    figures = [f"{of_calls(python, *args):.2f}" for python in pythons]
    return f"{min(figures)} to {max(figures)}"


PARTIAL = about(of_alternative("Pool, functools.partial"))
PARTIAL_64 = about(of_alternative("Pool, functools.partial, chunks of 64"))
LRU_CACHE = about(of_alternative("Pool, functools.lru_cache"))

SENTENCES = {
    "proposal.rst": [
        f"takes {PARTIAL} times as long as with a global, and {PARTIAL_64} times with"
        " ``chunksize=64``",
        f"{LRU_CACHE} times the time, and no ``initargs``",
        f"took {span(NEW, 'patch', 'initret')} times as long as with a global on 3.11 to 3.15, and"
        f" {span(OLD, 'patch', 'initret')} times on 3.8 to 3.10",
        f"With it off the time was {span(NEW, 'patch', 'global', 'global', 'standard')} of the"
        " stock interpreter's on 3.11 to 3.15",
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
