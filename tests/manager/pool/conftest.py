"""Pools for the tests: one a worker's tests share, or one of your own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.harness import Kernel

from .harness import Pool, open_pool


@pytest.fixture(scope="session")
def pool(hermetic_user_directories: None) -> Iterator[Pool]:
    """A pool for tests that leave it as it is."""
    with open_pool() as pool:
        yield pool


@pytest.fixture
def own_pool() -> Iterator[Pool]:
    """A pool nobody else uses: for tests that change or end it."""
    with open_pool() as pool:
        yield pool


@pytest.fixture(scope="session")
def kernel(pool: Pool) -> Iterator[Kernel]:
    """A kernel of the pool that tests share."""
    with pool.warm_kernel() as kernel:
        yield kernel


@pytest.fixture(scope="session")
def plotting(hermetic_user_directories: None) -> Iterator[Pool]:
    """A pool whose zygotes import matplotlib."""
    with open_pool(
        "c.Pool.preload = ['numpy', 'matplotlib.pyplot']\nc.Pool.min_idle = 1\n"
    ) as pool:
        yield pool
