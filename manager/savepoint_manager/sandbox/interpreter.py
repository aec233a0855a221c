"""What a kernel's interpreter needs of the file system, as the interpreter itself tells it.

It is asked outside of the sandbox, and imports `site` and what that imports: so once in a session,
before there is a kernel that could leave something there for it to import.

Threads: any.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from ..exceptions import SandboxUnavailable

_ASK = (
    "import json, sys;"
    "places = [sys.prefix, sys.base_prefix, sys.exec_prefix, *filter(None, sys.path)];"
    "print('\\n' + json.dumps(places))"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Where an interpreter is.

    Args:
        executable: as it is started.
        links: those from there to the program, with what they say.
        places: directories of the program, its library and its packages.
    """

    executable: str
    links: Mapping[str, str]
    places: tuple[str, ...]

    @classmethod
    def ask(cls, executable: str, env: Mapping[str, str]) -> Interpreter:
        """Run an interpreter.

        Raises:
            SandboxUnavailable: it does not answer.
        """
        # In a directory without packages: "" and PYTHONPATH=. are the current one.
        answer = subprocess.run(
            [executable, "-c", _ASK],
            env=dict(env),
            cwd="/",
            capture_output=True,
            text=True,
            errors="replace",
        )
        said = answer.stdout.strip().rpartition("\n")[2]  # a sitecustomize may print, too
        if answer.returncode or not said.startswith("["):
            why = answer.stderr.strip() or said or answer.returncode
            raise SandboxUnavailable(f"{executable} can't tell where its packages are: {why}")
        links: dict[str, str] = {}
        program = executable
        while os.path.islink(program):  # of an environment, of a version
            links[program] = os.readlink(program)
            program = os.path.normpath(os.path.join(os.path.dirname(program), links[program]))
        prefix = os.path.dirname(os.path.dirname(program))
        return cls(executable, links, (*json.loads(said), prefix))
