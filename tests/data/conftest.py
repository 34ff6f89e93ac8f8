"""What the tests of rec.data share."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Tables prepared on the fly go to a cache of this test run."""
    from datasets import config

    config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.1  # five seconds after each pass over several shards
