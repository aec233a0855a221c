"""`python -m savepoint_kernel install` and the kernelspec it writes."""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from savepoint_kernel import kernelspec, launch
from savepoint_kernel.kernelspec import InstallSavepointKernelSpecApp

LOGO_SIZES = {"logo-32x32.png": 32, "logo-64x64.png": 64}


@pytest.fixture(autouse=True)
def private_jupyter_directories(tmp_path, monkeypatch):
    """Keep the kernelspecs of whoever runs the tests out of reach."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter-data"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter-config"))


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "prefix"


def run_install(*arguments: str) -> None:
    app = InstallSavepointKernelSpecApp()
    app.initialize(list(arguments))
    app.start()


def spec_in(prefix: Path, name: str = "savepoint") -> dict[str, Any]:
    directory = prefix / "share" / "jupyter" / "kernels" / name
    return json.loads((directory / "kernel.json").read_text("utf-8"))


def test_installs_a_kernelspec_that_jupyter_finds(prefix):
    run_install("--prefix", str(prefix))

    kernels = prefix / "share" / "jupyter" / "kernels"
    found = KernelSpecManager(kernel_dirs=[str(kernels)]).get_kernel_spec("savepoint")
    assert found.display_name == "Python 3 (Savepoint)"
    assert found.language == "python"
    assert found.interrupt_mode == "signal"
    assert found.metadata == {"debugger": True, "supported_encryption": ["curve"]}
    assert found.argv == [
        sys.executable,
        "-I",
        "-S",
        "{resource_dir}/launch.py",
        "-Xfrozen_modules=off",
        "-m",
        "savepoint_kernel",
        "-f",
        "{connection_file}",
    ]


def test_shim_comes_along(prefix):
    run_install("--prefix", str(prefix))

    directory = prefix / "share" / "jupyter" / "kernels" / "savepoint"
    assert (directory / "launch.py").read_text() == Path(launch.__file__).read_text()


def test_provisioner_is_named_only_for_the_jupyter_that_has_it(prefix, monkeypatch):
    run_install("--prefix", str(prefix), "--name", "elsewhere")
    monkeypatch.setattr(sys, "prefix", str(prefix))
    run_install("--sys-prefix", "--name", "here")

    assert "kernel_provisioner" not in spec_in(prefix, "elsewhere")["metadata"]
    named = spec_in(prefix, "here")["metadata"]["kernel_provisioner"]
    assert named == {"provisioner_name": "savepoint-provisioner"}


def test_sandboxed_kernelspec_starts_nothing_without_its_provisioner(prefix):
    run_install("--prefix", str(prefix), "--sandbox")

    spec = spec_in(prefix, "savepoint-sandbox")
    assert spec["display_name"] == "Python 3 (Savepoint, sandbox)"
    assert spec["metadata"]["kernel_provisioner"] == {
        "provisioner_name": "savepoint-provisioner",
        "config": {"isolation": "sandbox"},
    }
    assert spec["argv"][:4] == [
        sys.executable,
        "-m",
        "savepoint_manager.sandbox",
        "-Xfrozen_modules=off",
    ]


def test_packaged_kernelspec_leaves_the_choice_of_python_to_jupyter():
    spec = json.loads((kernelspec.resources_dir() / "kernel.json").read_text("utf-8"))
    assert spec["argv"][0] == "python"


def test_logos_come_along(prefix):
    run_install("--prefix", str(prefix))

    directory = prefix / "share" / "jupyter" / "kernels" / "savepoint"
    for name, size in LOGO_SIZES.items():
        header = (directory / name).read_bytes()[:24]
        assert struct.unpack(">8s8xII", header) == (b"\x89PNG\r\n\x1a\n", size, size)
    assert (directory / "logo-svg.svg").read_text("utf-8").startswith("<svg")


def test_what_is_installed_can_be_read_by_everyone(prefix):
    before = os.umask(0o077)
    try:
        run_install("--prefix", str(prefix))
    finally:
        os.umask(before)

    directory = prefix / "share" / "jupyter" / "kernels" / "savepoint"
    assert directory.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {0o644}


def test_user_install_goes_to_the_data_directory(tmp_path):
    run_install("--user")

    assert (tmp_path / "jupyter-data" / "kernels" / "savepoint" / "kernel.json").is_file()


def test_sys_prefix_means_the_environment_of_this_python(prefix, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(prefix))
    run_install("--sys-prefix")

    assert spec_in(prefix)["argv"][0] == sys.executable


def test_says_where_it_installed(prefix, capsys):
    run_install("--prefix", str(prefix), "--name", "other")

    directory = prefix / "share" / "jupyter" / "kernels" / "other"
    assert capsys.readouterr().out == f"Installed kernelspec other in {directory}\n"


def test_own_name_is_shown_unless_a_display_name_is_given(prefix):
    run_install("--prefix", str(prefix), "--name", "geo")
    assert spec_in(prefix, "geo")["display_name"] == "geo"

    run_install("--prefix", str(prefix), "--name", "geo", "--display-name", "Maps")
    assert spec_in(prefix, "geo")["display_name"] == "Maps"


def test_profile_reaches_the_kernel_and_its_display_name(prefix):
    run_install("--prefix", str(prefix), "--profile", "work")

    spec = spec_in(prefix)
    assert spec["argv"][-4:] == ["-f", "{connection_file}", "--profile", "work"]
    assert spec["display_name"] == "Python 3 (Savepoint) [profile=work]"


def test_environment_variables_reach_the_kernel(prefix):
    run_install("--prefix", str(prefix), "--env", "A", "1", "--env", "PATH", "${HOME}/bin:${PATH}")

    assert spec_in(prefix)["env"] == {"A": "1", "PATH": "${HOME}/bin:${PATH}"}


def test_no_env_entry_without_variables(prefix):
    run_install("--prefix", str(prefix))

    assert "env" not in spec_in(prefix)


def test_frozen_modules_also_silence_the_warning_of_the_debugger(prefix):
    run_install("--prefix", str(prefix), "--frozen_modules")

    spec = spec_in(prefix)
    assert "-Xfrozen_modules=off" not in spec["argv"]
    assert spec["env"] == {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def test_install_replaces_an_earlier_one(prefix):
    run_install("--prefix", str(prefix), "--env", "A", "1")
    run_install("--prefix", str(prefix))

    assert "env" not in spec_in(prefix)


def test_install_leaves_the_given_environment_alone(prefix):
    env = {"A": "1"}
    kernelspec.install(prefix=str(prefix), env=env, frozen_modules=True)

    assert env == {"A": "1"}


def test_wheel_resources_come_before_the_source_tree(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "savepoint_kernel"
    (package / "resources").mkdir(parents=True)
    (package / "resources" / "kernel.json").write_text("{}")
    monkeypatch.setattr(kernelspec, "__file__", str(package / "kernelspec.py"))

    assert kernelspec.resources_dir() == package / "resources"


def test_missing_resources_name_the_places_searched(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "savepoint_kernel"
    monkeypatch.setattr(kernelspec, "__file__", str(package / "kernelspec.py"))

    with pytest.raises(FileNotFoundError, match="reinstall") as caught:
        kernelspec.resources_dir()
    assert str(package / "resources") in str(caught.value)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_unwritable_directory_is_named_with_a_way_out(code, prefix, capsys, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError(code, os.strerror(code), "kernel.json")

    monkeypatch.setattr(KernelSpecManager, "install_kernel_spec", refuse)
    with pytest.raises(SystemExit) as caught:
        run_install("--prefix", str(prefix))

    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert str(prefix / "share" / "jupyter" / "kernels" / "savepoint") in message
    assert "--user" in message
    assert "--prefix" in message


@pytest.mark.parametrize("where", [["--user"], ["--prefix", "/nowhere"], []])
def test_named_directory_is_the_one_jupyter_installs_to(where, capsys, monkeypatch):
    intended = []

    def refuse(manager: KernelSpecManager, source: str, **options: Any) -> str:
        intended.append(
            manager._get_destination_dir(
                options["kernel_name"], user=options["user"], prefix=options["prefix"]
            )
        )
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(KernelSpecManager, "install_kernel_spec", refuse)
    with pytest.raises(SystemExit):
        run_install(*where)

    assert f"cannot write {intended[0]}:" in capsys.readouterr().err


def test_other_os_errors_are_not_explained_away(prefix, monkeypatch):
    def fill_disk(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(KernelSpecManager, "install_kernel_spec", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        run_install("--prefix", str(prefix))


def test_name_jupyter_does_not_allow_is_refused(prefix, capsys):
    with pytest.raises(SystemExit) as caught:
        run_install("--prefix", str(prefix), "--name", "not a name")

    assert caught.value.code == 1
    assert "not a name" in capsys.readouterr().err


def test_user_and_prefix_exclude_each_other(prefix, capsys):
    with pytest.raises(SystemExit) as caught:
        run_install("--user", "--prefix", str(prefix))

    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
