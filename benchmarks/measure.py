"""Functions that the benchmarks share: ratios, tables, and the files of the results.

If the environment variable SAVE_RESULTS is set, each benchmark writes all measurements to
results/NAME.json, and its table, which the documentation includes, to results/NAME.rst.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics

PYTHON = f"{platform.python_implementation()} {platform.python_version()}"
RESULTS = pathlib.Path(__file__).parent / "results"
DIGITS = 4  # significant digits of a measured time
OPTIONAL = ["billiard", "joblib", "loky", "mpire", "multiprocess", "numpy", "pebble", "ray"]


def ratio(seconds, others):
    """Return the median of the ratios of each round, in which both were measured in turn."""
    return statistics.median(a / b for a, b in zip(seconds, others))


def versions(names=OPTIONAL):
    """Return the version of each library that is installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def conditions():
    """Return the date, the machine, and the Python of the measurements."""
    gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()}, {os.cpu_count()} cores, {gigabytes:.0f} GiB",
        "python": PYTHON,
    }


def write(path, content):
    """Write a file of results if SAVE_RESULTS is set; do nothing otherwise."""
    if "SAVE_RESULTS" not in os.environ:
        return
    RESULTS.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    print(f"written: results/{path.name}")


def save_json(name, content):
    """Write results/NAME.json, indented, with each list of numbers in one line."""
    text = json.dumps(content, indent=1)
    flat = re.sub(r"\[[^\[\]{}]+\]", lambda found: " ".join(found[0].split()), text)
    write(RESULTS / f"{name}.json", flat + "\n")


def save(name, timed, **common):
    """Write results/NAME.json, which `python -m pyperf show` reads.

    :param timed: pairs of metadata, a dictionary with a "name", and a list of seconds
    :param common: metadata of all pairs
    """
    benchmarks = [
        {
            "metadata": metadata,
            "runs": [{"values": [float(f"{value:.{DIGITS}g}") for value in seconds]}],
        }
        for metadata, seconds in timed
    ]
    save_json(
        name,
        {
            "benchmarks": benchmarks,
            "metadata": {**conditions(), **common, "unit": "second"},
            "version": "1.0",
        },
    )


def saved(name):
    """Return the seconds and the metadata that save() wrote, by name."""
    benchmarks = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["benchmarks"]
    return {
        one["metadata"]["name"]: (one["runs"][0]["values"], one["metadata"]) for one in benchmarks
    }


def table(head, rows):
    """Return a simple table in reStructuredText."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def save_tables(name, *tables):
    """Print tables with the conditions of the measurements, and write them to results/NAME.rst."""
    found = conditions()
    text = "\n\n".join([*tables, f"{found['python']}, {found['machine']}, {found['date']}."])
    print(text)
    write(RESULTS / f"{name}.rst", text + "\n")
