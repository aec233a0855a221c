"""Installing the kernelspec: ``python -m savepoint_kernel install``.

``pip install jupyter-savepoint`` already puts a kernelspec into the environment it installs to.
This command is for the other cases: a Jupyter that lives in another environment, a second entry
with its own name, profile or environment variables. The options are those of
``python -m ipykernel install``, so a script that registers the one can register the other.

``kernelspec/kernel.json`` in the source tree is the only description of the kernelspec. What is
installed here is that file with the interpreter made absolute and the options applied.

The pool is reached in two ways: by the kernelspec's provisioner, or by the shim in its ``argv``
(`launch`). A Jupyter that has no such provisioner does not show the kernelspec at all, so it is
named only where the Jupyter of this environment looks.
"""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.paths import SYSTEM_JUPYTER_PATH, jupyter_data_dir
from traitlets.config import Application

from . import launch

KERNEL_NAME = "savepoint"
SANDBOX_NAME = "savepoint-sandbox"

_SANDBOX_ONLY = "savepoint_manager.sandbox"
"""Module that refuses to start what follows: its provisioner leaves it out."""

_FROZEN_MODULES_OFF = "-Xfrozen_modules=off"
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def resources_dir() -> Path:
    """Find the directory with ``kernel.json`` and the logos.

    Returns:
        ``resources`` inside the package for an installed wheel; ``kernelspec`` in the source tree
        for an editable install, where no wheel ever put the files beside the code.

    Raises:
        FileNotFoundError: Neither exists: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    candidates = (package / "resources", package.parents[1] / "kernelspec")
    for candidate in candidates:
        if (candidate / "kernel.json").is_file():
            return candidate
    places = " nor ".join(map(str, candidates))
    msg = f"no kernel.json in {places}; reinstall jupyter-savepoint"
    raise FileNotFoundError(msg)


def kernel_spec(
    kernel_name: str = KERNEL_NAME,
    display_name: str | None = None,
    profile: str | None = None,
    env: Mapping[str, str] | None = None,
    frozen_modules: bool = False,
    provisioner: bool = False,
    sandbox: bool = False,
) -> dict[str, Any]:
    """Describe a kernel that runs in this interpreter, as ``kernel.json`` wants it.

    Args:
        kernel_name: Name the kernelspec is going to be installed under.
        display_name: Name front ends show. A kernelspec with a name of its own shows that name
            unless told otherwise.
        profile: IPython profile the kernel loads.
        env: Environment variables the kernel gets on top of those of the front end.
        frozen_modules: Use CPython's frozen standard library modules, as a plain ``python``
            does; the debugger cannot step into those modules then.
        provisioner: Name the pool's provisioner. The Jupyter that starts the kernel must have it.
        sandbox: Isolate each kernel; only the provisioner starts them.

    Returns:
        The content of ``kernel.json``.
    """
    spec: dict[str, Any] = json.loads((resources_dir() / "kernel.json").read_text("utf-8"))
    variables = dict(env or {})

    argv = [sys.executable, *spec["argv"][1:]]
    if sys.platform != "linux":  # there is no pool
        del argv[1 : argv.index(_FROZEN_MODULES_OFF)]
    if sandbox:  # a front end that knows no provisioners must not start a kernel outside of one
        argv[1 : argv.index(_FROZEN_MODULES_OFF)] = ["-m", _SANDBOX_ONLY]
    if frozen_modules:
        # debugpy prints a warning about frozen modules; whoever asked for them knows.
        variables.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        argv.remove(_FROZEN_MODULES_OFF)
    if profile:
        argv += ["--profile", profile]
    spec["argv"] = argv
    if sandbox:
        spec["metadata"]["kernel_provisioner"]["config"] = {"isolation": "sandbox"}
    elif not provisioner:
        del spec["metadata"]["kernel_provisioner"]

    if display_name:
        spec["display_name"] = display_name
    elif sandbox and kernel_name == SANDBOX_NAME:
        spec["display_name"] = "Python 3 (Savepoint, sandbox)"
    elif kernel_name != KERNEL_NAME:
        spec["display_name"] = kernel_name
    elif profile:
        spec["display_name"] += f" [profile={profile}]"
    if variables:
        spec["env"] = variables
    return spec


def install(
    kernel_spec_manager: KernelSpecManager | None = None,
    user: bool = False,
    kernel_name: str = KERNEL_NAME,
    display_name: str | None = None,
    prefix: str | None = None,
    profile: str | None = None,
    env: Mapping[str, str] | None = None,
    frozen_modules: bool = False,
    sandbox: bool = False,
) -> str:
    """Install a kernelspec for this interpreter, replacing one of the same name.

    Args:
        kernel_spec_manager: Does the installing; a default one if not given.
        user: Install for the current user instead of system-wide.
        kernel_name: Name to install under.
        display_name: Name front ends show, see `kernel_spec`.
        prefix: Install to ``PREFIX/share/jupyter/kernels``; excludes ``user``.
        profile: IPython profile the kernel loads.
        env: Environment variables for the kernel.
        frozen_modules: Use frozen standard library modules, see `kernel_spec`.
        sandbox: Isolate each kernel, see `kernel_spec`.

    Returns:
        The directory of the installed kernelspec.

    Raises:
        OSError: The directory could not be written.
        ValueError: The name has characters Jupyter does not allow, or both ``user`` and
            ``prefix`` were given.
    """
    spec = kernel_spec(
        kernel_name,
        display_name,
        profile,
        env,
        frozen_modules,
        provisioner=prefix == sys.prefix,
        sandbox=sandbox,
    )
    with tempfile.TemporaryDirectory(suffix="_kernelspec") as staging:
        for resource in (*resources_dir().iterdir(), Path(launch.__file__)):
            shutil.copyfile(resource, Path(staging, resource.name))
        Path(staging, "kernel.json").write_text(json.dumps(spec, indent=1) + "\n", "utf-8")
        # The manager copies modes too. A temporary directory is private, the package may be
        # read-only, the umask strict; a system-wide kernelspec is for everyone.
        for staged in Path(staging).iterdir():
            staged.chmod(0o644)
        Path(staging).chmod(0o755)
        manager = kernel_spec_manager or KernelSpecManager()
        return manager.install_kernel_spec(
            staging, kernel_name=kernel_name, user=user, prefix=prefix
        )


class InstallSavepointKernelSpecApp(Application):
    """The ``install`` subcommand of ``python -m savepoint_kernel``."""

    name = "savepoint-kernel-install"
    description = "Install the Savepoint kernelspec for this Python."

    options: argparse.Namespace

    def initialize(self, argv: list[str] | None = None) -> None:
        """Parse the command line.

        Args:
            argv: Arguments after the subcommand; those of the process if not given.
        """
        self.options = _parser().parse_args(argv)

    def start(self) -> None:
        """Install, and say where to or what was in the way."""
        options = self.options
        name = options.name or (SANDBOX_NAME if options.sandbox else KERNEL_NAME)
        try:
            destination = install(
                user=options.user,
                kernel_name=name,
                display_name=options.display_name,
                prefix=options.prefix,
                profile=options.profile,
                env=dict(options.env),
                frozen_modules=options.frozen_modules,
                sandbox=options.sandbox,
            )
        except ValueError as error:
            self._fail(str(error))
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            directory = _kernels_dir(options.user, options.prefix) / name
            self._fail(
                f"cannot write {directory}: {error.strerror}.\n"
                "Use --user to install for yourself, --sys-prefix to install into this "
                "environment, or --prefix DIR for a directory you may write to."
            )
        else:
            print(f"Installed kernelspec {name} in {destination}")

    def _fail(self, message: str) -> None:
        print(f"{self.name}: {message}", file=sys.stderr)
        self.exit(1)


def _kernels_dir(user: bool, prefix: str | None) -> Path:
    # Where the manager installs to. Its errors may name a file of that directory only.
    if user:
        return Path(jupyter_data_dir(), "kernels")
    if prefix:
        return Path(prefix, "share", "jupyter", "kernels")
    return Path(SYSTEM_JUPYTER_PATH[0], "kernels")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m savepoint_kernel install",
        description=InstallSavepointKernelSpecApp.description,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--user",
        action="store_true",
        help="install for the current user instead of system-wide",
    )
    where.add_argument(
        "--prefix",
        help="install to PREFIX/share/jupyter/kernels, for example of another environment",
    )
    where.add_argument(
        "--sys-prefix",
        action="store_const",
        const=sys.prefix,
        dest="prefix",
        help=f"install into the environment of this Python: --prefix={sys.prefix}",
    )
    parser.add_argument(
        "--name",
        help="name of the kernelspec, to have several side by side (default: "
        f"{KERNEL_NAME}, or {SANDBOX_NAME} with --sandbox)",
    )
    parser.add_argument("--display-name", help="name that front ends show")
    parser.add_argument("--profile", help="IPython profile the kernel loads")
    parser.add_argument(
        "--env",
        action="append",
        nargs=2,
        default=[],
        metavar=("NAME", "VALUE"),
        help="set an environment variable for the kernel; may be repeated",
    )
    parser.add_argument(
        "--frozen_modules",
        action="store_true",
        help="use frozen standard library modules; the debugger cannot step into them then",
    )
    parser.add_argument(
        "--sandbox",
        action="store_true",
        help="isolate each kernel with bubblewrap; for front ends on jupyter_client that have "
        "Savepoint in their environment",
    )
    return parser
