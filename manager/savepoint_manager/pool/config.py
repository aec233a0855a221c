"""Options of the pool: ``c.Pool`` in ``jupyter_savepoint_config.py``.

Threads: none of its own.
"""

from __future__ import annotations

import contextlib
from typing import Any

from jupyter_core.paths import jupyter_config_path
from traitlets import Dict, Float, Int, List, Unicode
from traitlets.config import Config, LoggingConfigurable
from traitlets.config.loader import ConfigFileNotFound, JSONFileConfigLoader, PyFileConfigLoader

CONFIG_FILE = "jupyter_savepoint_config"
"""Its name without .py or .json."""

_CONFIG_FILES = ("jupyter_config", CONFIG_FILE)
"""Those that JupyterApp reads; the last has the last word."""

_LOADERS = {"py": PyFileConfigLoader, "json": JSONFileConfigLoader}

ALIASES = {"min-idle": "Pool.min_idle", "preload": "Pool.preload"}
"""Options of the daemon that have a short name on its command line."""


class Modules(List[str]):
    """Names of modules; on a command line also with commas between them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Unicode(), **options)

    def from_string(self, s: str) -> list[str]:
        """Read one text."""
        return self.from_string_list([s])

    def from_string_list(self, s_list: list[str]) -> list[str]:
        """Read what several options say."""
        return [name for text in s_list for name in text.replace(",", " ").split()]


class Pool(LoggingConfigurable):
    """What the daemon keeps ready."""

    min_idle = Int(
        2,
        min=0,
        help="""Standbys kept for each key (interpreter, options, environment). 0 keeps only the
        zygote: kernels are forked when they are asked for.""",
    ).tag(config=True)
    preload = Modules(
        help="""Modules that zygotes import besides what a kernel needs: numpy, pandas, ... Their
        memory is shared by all kernels. A module that starts threads when it is imported can't be
        among them.""",
    ).tag(config=True)
    adopt = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="""Kernelspecs of other kernels than Savepoint's to keep started kernels of, by name.
        The value is code that is run silently when a kernel is handed out, to change its directory:
        in it, {cwd} stands for the path in double quotes. Without {cwd} in it, kernels are kept for
        each directory. Front ends read this, and it takes those that use savepoint-provisioner for
        the kernelspec.""",
    ).tag(config=True)
    max_keys = Int(
        4,
        min=1,
        help="""Keys standbys are kept for, and as many that kernels to adopt are kept for. The one
        that was asked for longest ago makes room.""",
    ).tag(config=True)
    refill_delay = Float(
        1.0,
        min=0.0,
        help="Seconds from the hand-out of a standby until its successor is made.",
    ).tag(config=True)
    refill_load = Float(
        70.0,
        min=0.0,
        help="""Percent of all CPUs in use above which making standbys waits, at most
        refill_patience seconds.""",
    ).tag(config=True)
    refill_patience = Float(15.0, min=0.0, help="See refill_load.").tag(config=True)
    max_age = Float(
        3600.0,
        min=0.0,
        help="Seconds after which a standby that nobody took is replaced. 0 means never.",
    ).tag(config=True)
    acquire_timeout = Float(
        10.0,
        min=0.1,
        help="""Seconds in which a standby must have bound its ports; after that the front end
        starts a kernel by itself.""",
    ).tag(config=True)
    idle_timeout = Float(
        3600.0,
        min=0.0,
        help="""Seconds after which the daemon ends if no kernel of the pool lives and none was
        asked for. 0 means never.""",
    ).tag(config=True)


def adoptions() -> dict[str, str]:
    """Read `Pool.adopt` as a front end, whose own configuration has no part in it.

    No Application reads it: that would set up logging, which closes the front end's log files.

    Raises:
        Exception: it is not what it should be, or a file can't be read.
    """
    config = Config()
    for name in _CONFIG_FILES:
        for directory in reversed(jupyter_config_path()):
            for ending, loader in _LOADERS.items():
                with contextlib.suppress(ConfigFileNotFound):
                    config.merge(loader(f"{name}.{ending}", directory).load_config())
    adopt: dict[str, str] = Pool(config=config).adopt
    return adopt
