"""Tests that the figures in the documentation are those in the files of results.

Each sentence is made from the measurements, and must be in the named file.  After new
measurements, a failing test shows the sentence that must replace the old one.
"""

import pathlib

import pytest
from measure import ratio, saved

REPOSITORY = pathlib.Path(__file__).parent.parent


def of_alternative(name):
    """Return the time of an alternative over that of the standard Pool, with running workers."""
    results = saved("alternatives")
    return ratio(results[f"{name}: once more"][0], results["Pool, a global: once more"][0])


def about(figure):
    """Return a figure with two significant digits, as in the sentence."""
    return f"{float(f'{figure:.2g}'):g}"


PARTIAL = about(of_alternative("Pool, functools.partial"))
PARTIAL_64 = about(of_alternative("Pool, functools.partial, chunks of 64"))
LRU_CACHE = about(of_alternative("Pool, functools.lru_cache"))

SENTENCES = {
    "proposal.rst": [
        f"takes {PARTIAL} times as long as with a global, and {PARTIAL_64} times with chunks of 64",
        f"around a factory: {LRU_CACHE} times as long",
    ],
    "backport/docs/alternatives.rst": [
        f"takes {PARTIAL} times as long as a global variable, and {PARTIAL_64} times with"
        " ``chunksize=64``",
        f"need no *initargs*, in {LRU_CACHE} times the time",
    ],
}


@pytest.mark.parametrize(
    ("path", "sentence"), [(path, one) for path, all_of in SENTENCES.items() for one in all_of]
)
def test_a_figure_is_the_one_measured(path, sentence):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert sentence in " ".join(text.split())
