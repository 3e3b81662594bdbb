"""What the benchmarks share: the ratio of two things timed in turn, and a file of all times."""

import datetime
import os
import pathlib
import platform
import statistics

import pyperf

PYTHON = f"{platform.python_implementation()} {platform.python_version()}"
RESULTS = pathlib.Path(__file__).parent / "results"


def ratio(seconds, others):
    """Return the median of the ratios of the rounds, which a slow minute does not change."""
    return statistics.median(a / b for a, b in zip(seconds, others))


def machine():
    with open("/proc/meminfo") as file:
        gigabytes = int(file.readline().split()[1]) / 2**20
    return f"{platform.system()}, {os.cpu_count()} cores, {gigabytes:.0f} GiB"


def save(name, timed, **common):
    """Write results/NAME.json, which `python -m pyperf show` reads.

    :param timed: pairs of metadata, a dictionary with a "name", and seconds
    :param common: metadata of all
    """
    common.update(date=datetime.date.today().isoformat(), machine=machine(), python=PYTHON)
    suite = pyperf.BenchmarkSuite(
        [
            pyperf.Benchmark(
                [pyperf.Run(seconds, metadata={**common, **metadata}, collect_metadata=False)]
            )
            for metadata, seconds in timed
        ]
    )
    RESULTS.mkdir(exist_ok=True)
    suite.dump(str(RESULTS / f"{name}.json"), replace=True)
    print(f"written: results/{name}.json, {common['date']}, {common['machine']}")
