def pytest_ignore_collect(config):
    """Collect these tests only if they are named: they need a multiprocessing that has the feature.

    The other tests of the package install the feature themselves, and remove it again.
    """
    return None if any("conformance" in str(arg) for arg in config.args) else True
