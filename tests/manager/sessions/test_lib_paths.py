from __future__ import annotations

import os
from pathlib import Path

import pytest

from savepoint_manager import SessionPool
from savepoint_manager.exceptions import EvaluationFailed, LibPathNotFound

from .harness import Kernels, pool_of

WHICH = "__import__('library').where"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Directories, each with a module that says in which it is."""
    for name in ("explicit", "second", "pool", "environment", "cwd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "library.py").write_text(f"where = {name!r}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("own", "of_pool", "found"),
    [(["second", "explicit"], ["pool"], "second"), ([], ["pool"], "pool"), ([], [], "environment")],
)
async def test_explicit_paths_come_first_then_those_of_the_environment(
    library: Path, own: list[str], of_pool: list[str], found: str
) -> None:
    async with pool_of(
        lib_paths=[library / name for name in of_pool],
        env={"PYTHONPATH": str(library / "environment")},
        cwd=library / "cwd",
        warmup_code="import library",
    ) as pool:
        session = await pool.acquire(lib_paths=[str(library / name) for name in own])
        for again in (True, False) if own else (False,):
            assert await session.evaluate("library.where") == found
            explicit = [str(library / name) for name in [*own, *of_pool]]
            assert [str(path) for path in session.lib_paths] == explicit
            path = await session.evaluate("__import__('sys').path")
            assert path[: len(explicit)] == explicit
            assert len(path) == len(set(path))
            packages = next(i for i, entry in enumerate(path) if entry.endswith("site-packages"))
            assert path.index(str(library / "environment")) < packages
            if again:
                await session.reset()


async def test_child_processes_find_them_too(library: Path) -> None:
    async with pool_of(lib_paths=[library / "explicit"]) as pool:
        code = f"""
import subprocess, sys
subprocess.check_output([sys.executable, "-c", "print({WHICH})"], text=True).strip()
"""
        assert await pool.evaluate(code) == "explicit"


async def test_a_session_with_paths_has_a_kernel_of_its_own(
    library: Path, kernels: Kernels
) -> None:
    async with pool_of(min_idle=1, max_sessions=1) as pool:
        (ready,) = kernels()
        async with await pool.acquire(lib_paths=[library / "explicit"]) as session:
            assert ready not in kernels()
            assert await session.evaluate(WHICH) == "explicit"
        assert await pool.evaluate(WHICH, lib_paths=[library / "second"]) == "second"
        async with await pool.acquire() as session:
            with pytest.raises(EvaluationFailed, match="No module named 'library'"):
                await session.evaluate(WHICH)


@pytest.mark.parametrize(("name", "text"), [("no", "does not exist"), ("file", "not a directory")])
async def test_a_path_that_is_no_directory_is_named_before_anything_starts(
    tmp_path: Path, pool: SessionPool, name: str, text: str, kernels: Kernels
) -> None:
    (tmp_path / "file").touch()
    path, before = tmp_path / name, kernels()
    with pytest.raises(LibPathNotFound, match=text) as error:
        await pool.acquire(lib_paths=[path])
    assert error.value.path == str(path)
    with pytest.raises(LibPathNotFound, match=text):
        await pool.evaluate("1", lib_paths=[path])
    with pytest.raises(LibPathNotFound, match=text):
        pool_of(lib_paths=[path])
    assert kernels() == before


async def test_a_relative_path_is_meant_from_here(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    async with pool_of(lib_paths=["explicit"], cwd=os.sep) as pool:
        assert await pool.evaluate(WHICH) == "explicit"
