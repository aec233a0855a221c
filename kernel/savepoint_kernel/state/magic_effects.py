"""What IPython's magics do to the namespace: a table.

Magics not listed may do anything. Neither can a user's own magic that hides a listed one be seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MagicCall:
    """One call of a magic or, as the magic ``!``, of the system shell.

    Attributes:
        name: without the percent sign.
        line: what follows the name.
        body: the rest of the cell; None for a line magic.
    """

    name: str
    line: str
    body: str | None = None

    def __str__(self) -> str:
        return f"%{self.name}" if self.body is None else f"%%{self.name}"


@dataclass(frozen=True, slots=True)
class MagicEffect:
    """What a call may do.

    Attributes:
        binds: names it binds or deletes itself.
        runs: texts it runs as cells.
        words: what it expands, evaluates or looks up: all words of it count as names.
    """

    binds: frozenset[str] = frozenset()
    runs: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()


_READ_ONLY = frozenset(
    """
    alias autocall automagic autosave bookmark clear colors config connect_info dhist dirs
    doctest_mode env gui hist history killbgscripts load loadpy logoff logon logstart logstate
    logstop lsmagic magic matplotlib notebook page pastebin pdb pdef pdoc pfile pinfo pinfo2 pprint
    precision psearch psource pwd pycat qtconsole quickref rehashx save set_env subshell tb unalias
    who who_ls whos xmode
    source
    """.split()
)
_TIMELINE = frozenset(
    """
    begin branch checkpoint clear commit diff redo refs release restore rollback savepoint timeline
    transaction undo
    """.split()
)
"""What these do the timeline knows, but for names that ``%restore`` takes one by one."""
_TEXT_CELLS = frozenset("HTML SVG file html javascript js latex markdown svg writefile".split())
_DIRECTORY = frozenset("cd popd pushd".split())
_COMMANDS = frozenset(
    """
    ! cat conda cp ldir less lf lk ll ls lx mamba man micromamba mkdir more mv pip rm rmdir sx
    system uv
    """.split()
)
_SCRIPT_CELLS = frozenset("bash perl pypy python python2 python3 ruby script sh".split())
_OPTIONS_BEFORE_CODE = {
    "prun": re.compile(r"(?:\s*(?:-[DTls]\s*\S+|-[qr]+(?!\S)))*"),
    "time": re.compile(r"(?:\s*--no-raise-error(?!\S))*"),
    "timeit": re.compile(r"(?:\s*(?:-[npr]\s*\d+|-[coqt]+(?!\S)))*"),
}
"""Of magics that run their line and their body. A line left with other options is no Python."""

_WORD = re.compile(r"[^\W\d]\w*")


def effect(call: MagicCall) -> MagicEffect | None:
    """What ``call`` may do to the namespace; None if it may do anything."""
    name, line, body = call.name, call.line, call.body
    if name in _OPTIONS_BEFORE_CODE:
        line = _OPTIONS_BEFORE_CODE[name].sub("", line, count=1)
        return MagicEffect(runs=tuple(text for text in (line, body) if text and text.strip()))
    if name == "capture" and body is not None:
        outputs = frozenset(word for word in line.split() if not word.startswith("--no-"))
        return MagicEffect(binds=outputs, runs=(body,))
    if name in _COMMANDS and "--" not in (line if body else ""):
        return MagicEffect(frozenset({"_exit_code"}), words=_expanded(f"{line} {body}"))
    if name in _SCRIPT_CELLS and "--" not in line:  # --out, --err and --proc bind names
        return MagicEffect(words=_expanded(line))
    if name in _DIRECTORY:
        return MagicEffect(binds=frozenset({"_dh"}), words=_expanded(line))
    if name in (_READ_ONLY | _TIMELINE if body is None else _TEXT_CELLS):
        return MagicEffect(words=frozenset(_WORD.findall(line)))
    return None


def _expanded(text: str) -> frozenset[str]:
    """Words of a text in which IPython evaluates ``{...}`` and ``$name``, if it has any."""
    return frozenset(_WORD.findall(text) if "{" in text or "$" in text else ())
