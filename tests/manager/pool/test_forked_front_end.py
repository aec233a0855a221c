"""A front end forked off one that has had kernels: a worker of multiprocessing."""

from __future__ import annotations

from .harness import Pool

FORK = """
manager = KernelManager(kernel_name="savepoint")
manager.start_kernel(env=dict(os.environ), stdout=sys.stderr)
manager.shutdown_kernel(now=True)
if child := os.fork():
    os.waitpid(child, 0)
    os._exit(0)
"""


def test_forked_front_end_has_kernels_too(own_pool: Pool) -> None:
    with own_pool.front_end(FORK) as front_end, front_end.kernel() as kernel:
        assert kernel.eval("6 * 7") == "42"
