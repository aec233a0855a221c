"""A new kernel has what is installed and configured now."""

from __future__ import annotations

import os
import shutil
import site
import sys
import time
import venv
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from savepoint_manager.pool.fingerprint import Fingerprint

from .harness import Pool, open_pool


def install(directory: Path, version: int) -> None:
    """Put a version of a package in the place of another, as pip does."""
    for old in directory.glob("thing*"):
        shutil.rmtree(old)
    package = directory / "thing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from thing.part import version\n")
    (package / "part.py").write_text(f"version = {version}\n")
    information = directory / f"thing-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: thing\nVersion: {version}\n")


def test_package_that_was_replaced_is_the_new_one(tmp_path: Path) -> None:
    """In an environment of its own, which has this one's packages by way of a .pth file."""
    venv.create(tmp_path / "env", symlinks=True)
    packages = next((tmp_path / "env" / "lib").iterdir()) / "site-packages"
    ours = next(path for path in site.getsitepackages() if path.startswith(sys.prefix))
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    install(packages, 1)
    argv = [str(tmp_path / "env" / "bin" / "python"), "-m", "savepoint_kernel", "-f"]

    def version(pool: Pool) -> tuple[str, bool]:
        manager = KernelManager(kernel_name="savepoint")
        manager._kernel_spec = KernelSpec(
            argv=[*argv, "{connection_file}"],
            display_name="own",
            language="python",
            metadata={"kernel_provisioner": {"provisioner_name": "savepoint-provisioner"}},
        )
        before = pool.hits()
        with pool.kernel(manager=manager) as kernel:
            hit = pool.hits() > before
            loaded = kernel.eval("'thing.part' in __import__('sys').modules")
            assert loaded == str(hit)
            kernel.ok("import thing")
            return kernel.eval("thing.version"), hit

    with open_pool("c.Pool.preload = ['thing']\nc.Pool.min_idle = 1\n") as pool:
        assert version(pool) == ("1", False)
        pool.await_ready()
        assert version(pool) == ("1", True)
        pool.await_ready()
        install(packages, 2)
        assert version(pool)[0] == "2"
        pool.await_ready()
        assert version(pool) == ("2", True)
        (packages / "more.pth").write_text(f"{tmp_path / 'more'}\n")
        install(tmp_path / "more", 3)
        shutil.rmtree(packages / "thing")
        assert version(pool)[0] == "3"


def test_edited_module_and_changed_configuration_are_the_new_ones(tmp_path: Path) -> None:
    modules, profile = tmp_path / "modules", tmp_path / "ipython" / "profile_default"
    install(modules, 1)
    profile.mkdir(parents=True)
    with open_pool("c.Pool.preload = ['thing']\nc.Pool.min_idle = 1\n") as pool:
        env = {
            **pool.env,
            "PYTHONPATH": str(modules),
            "IPYTHONDIR": str(profile.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

        def seen() -> list[str]:
            with pool.kernel(env=env) as kernel:
                kernel.ok("import thing")
                return [
                    kernel.eval("thing.version"),
                    kernel.eval("globals().get('started')"),
                    kernel.eval("get_ipython().ast_node_interactivity"),
                ]

        assert seen() == ["1", "None", "'last_expr'"]
        pool.await_ready()
        (modules / "thing" / "part.py").write_text("version = 2\n")
        assert seen() == ["2", "None", "'last_expr'"]
        pool.await_ready()
        (profile / "startup").mkdir(exist_ok=True)
        (profile / "startup" / "00.py").write_text("started = True\n")
        assert seen() == ["2", "True", "'last_expr'"]
        pool.await_ready()
        (profile / "ipython_config.py").write_text(
            "c = get_config()\nc.InteractiveShell.ast_node_interactivity = 'all'\n"
        )
        assert seen() == ["2", "True", "'all'"]


def test_change_while_a_zygote_starts_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("")
    began = time.time_ns()
    assert Fingerprint([str(module)]).changed_since(began + 1_000_000_000) is None
    os.utime(module, ns=(began + 1, began + 1))
    assert Fingerprint([str(module)]).changed_since(began) == str(module)
    os.utime(module, ns=(began + 10**15, began + 10**15))  # by a clock that was wrong
    assert Fingerprint([str(module)]).changed_since(began) is None


def test_files_that_are_no_modules_change_nothing(pool: Pool, tmp_path: Path) -> None:
    """A directory of notebooks on PYTHONPATH is written to all the time."""
    env = {**pool.env, "PYTHONPATH": str(tmp_path)}
    pool.have_standbys(env=env)
    (tmp_path / "notebook.ipynb").write_text("{}")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "later.py").write_text("value = 1")
    with pool.warm_kernel(env=env) as kernel:
        kernel.ok("import later")
        assert pool.key["recycled"] == 0
    os.mkdir(tmp_path / "jedi")
    (tmp_path / "jedi" / "__init__.py").write_text("ours = True")
    with pool.kernel(env=env) as kernel:
        kernel.ok("import jedi")
        assert kernel.eval("jedi.ours") == "True"
