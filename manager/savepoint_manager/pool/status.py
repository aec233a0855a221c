"""What ``jupyter savepoint pool status`` says.

Threads: the daemon's event loop.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import psutil

from savepoint_kernel.orders import Message

from .config import Pool

if TYPE_CHECKING:
    from .daemon import Daemon
    from .keeper import Keeper


def describe(daemon: Daemon) -> Message:
    """Describe the pool; times are seconds unless they say otherwise, memory is bytes."""
    return {
        "pid": os.getpid(),
        "age": time.time() - daemon.started,
        "kernels": len(daemon.kernels),
        "options": {name: getattr(daemon.config, name) for name in Pool.class_traits(config=True)},
        "keys": [_describe_key(daemon, pool) for pool in daemon.pools.values()],
    }


def _describe_key(daemon: Daemon, pool: Keeper[Any]) -> Message:
    counts = pool.counts
    times = sorted(counts.acquire_ms)
    quantiles = statistics.quantiles(times, n=20) if len(times) > 1 else times * 19
    now = time.monotonic()
    return {
        "key": pool.key.name,
        "executable": pool.key.executable,
        "options": list(pool.key.options),
        "arguments": list(pool.key.arguments),
        "variables": dict(pool.key.variables),
        "cwd": pool.key.cwd,
        "environment": pool.environment,
        "preload": pool.preload,
        "min_idle": pool.min_idle,
        "standbys": [standby.pid for standby in pool.idle],
        "warming": pool.warming,
        "zygote": pool.zygote,
        "problem": pool.problem,
        "in_use": sum(key == pool.key for key in daemon.kernels.values()),
        "hits": dict(counts.hits),
        "misses": dict(counts.missed),
        "acquire_ms": {"p50": quantiles[9], "p95": quantiles[18]} if quantiles else None,
        "created": counts.created,
        "recycled": counts.recycled,
        "died": counts.died,
        "oldest": max((now - standby.born for standby in pool.idle), default=None),
        "pss": {
            "standbys": sum(_pss(standby.pid) for standby in pool.idle),
            "zygote": _pss(pool.zygote) if pool.zygote else 0,
        },
    }


def _pss(pid: int) -> int:
    """Proportional set size: memory shared by n processes counts a n-th. 0 if it has ended."""
    try:
        size: int = psutil.Process(pid).memory_full_info().pss
    except psutil.Error:
        return 0
    return size
