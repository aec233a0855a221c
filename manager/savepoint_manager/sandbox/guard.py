"""What must stay as it is in a directory that a sandbox may write to: what runs outside, later.

The next kernel's interpreter is asked where its packages are, and it, this package, bubblewrap and
what else is found in PATH are started outside of a sandbox. Whatever they are started from can be
in a project's directory. There it is shown read-only, as a mount: nobody in the sandbox can rename
that, or a directory on the way to it that is one, too. A link can be replaced, and what is missing
can be made: with these there is no writable directory.

Threads: any.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ..exceptions import SandboxUnavailable
from .interpreter import Interpreter


def guarded(directory: str, interpreter: Interpreter) -> set[str]:
    """Return what is to be read-only in a directory, by its path in that.

    Args:
        directory: that the sandbox may write to.
        interpreter: of the kernel.

    Raises:
        SandboxUnavailable: something could be replaced all the same.
    """
    real = os.path.realpath(directory)
    ours = (sys.executable, sys.prefix, sys.base_prefix, os.path.dirname(__file__))
    places = (interpreter.executable, *interpreter.places, *ours, *os.get_exec_path())
    kept = {
        place
        for place in map(os.path.realpath, places)
        if place != real and within(place, real) and os.path.exists(place)
    }
    for place in places:
        for step in (*_links(place), os.path.realpath(place)):
            if within(step, real) and not any(within(step, other) for other in kept):
                raise SandboxUnavailable(
                    f"{directory} can't be writable: code in the sandbox could leave there what "
                    f"runs outside of it, by way of {step}, from where programs or packages are "
                    "taken (PATH, sys.path). Start the kernel in another directory, or make that "
                    "one a directory in it which is there and no link"
                )
    return {os.path.normpath(os.path.join(directory, os.path.relpath(p, real))) for p in kept}


def parents(places: Iterable[str], directory: str) -> set[str]:
    """Return the directories between a directory and places in it."""
    return {
        str(parent)
        for place in places
        for parent in Path(place).parents
        if within(str(parent), directory) and str(parent) != directory
    }


def within(path: str, place: str) -> bool:
    """Tell whether a path is a place or in it, as they are spelled."""
    return path == place or path.startswith(place.rstrip("/") + "/")


def _links(path: str) -> list[str]:
    """Return the links that a path leads by, each where it really is."""
    found: list[str] = []
    pending = [path]
    while pending:
        way = Path(pending.pop())
        for place in (way, *way.parents):
            link = os.path.join(os.path.realpath(place.parent), place.name)
            if os.path.islink(link) and link not in found:
                found.append(link)
                pending.append(os.path.join(os.path.dirname(link), os.readlink(link)))
    return found
