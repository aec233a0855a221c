"""Where the answers to ``input()`` come from when nobody sits at the keyboard.

Three shapes, because three things are wanted: a text file answers in order (a recorded dialogue),
a mapping answers by prompt (cells may ask in any order, or again), a callable decides by itself (a
secret store, a test). An answer that does not exist is None, never an empty string: an empty line
is an answer, and a run that invents one computes something nobody asked for.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from .exceptions import AnswersError

AnswerCallback: TypeAlias = Callable[[str, bool], "str | Awaitable[str | None] | None"]
AnswerSource: TypeAlias = "str | PathLike[str] | Mapping[str, Any] | AnswerCallback"


class Answers(Protocol):
    """Answers the prompts of one run; it may keep count, so each run needs its own."""

    @property
    def way_out(self) -> str:
        """One sentence for the error: how to give an answer that was missing."""
        ...

    async def answer(self, prompt: str, password: bool) -> str | None:
        """Return the answer to ``prompt``, or None if there is none."""
        ...


class OrderedAnswers:
    """Answers prompts in the order they come, whatever they say."""

    def __init__(self, lines: Iterable[str], origin: str) -> None:
        """Take the answers.

        Args:
            lines: one answer each, without line ends.
            origin: where they came from, for the error message.
        """
        self._lines = list(lines)
        self._used = 0
        self._origin = origin

    @property
    def way_out(self) -> str:
        """How to give the missing answer."""
        count = len(self._lines)
        holds = "1 answer" if count == 1 else f"{count} answers"
        return f"Add a line to {self._origin}: this was question {count + 1} and it holds {holds}."

    async def answer(self, prompt: str, password: bool) -> str | None:
        """Return the next line, or None after the last."""
        if self._used == len(self._lines):
            return None
        self._used += 1
        return self._lines[self._used - 1]


class PromptAnswers:
    """Answers a prompt by a piece of its text; the longest piece that fits wins."""

    def __init__(self, answers: Mapping[str, Any], origin: str) -> None:
        """Take the answers.

        Args:
            answers: a piece of the prompt to the answer; a list of answers is used up in order, a
                single one is given every time.
            origin: where they came from, for the error message.

        Raises:
            AnswersError: an answer is neither a string nor a list of strings.
        """
        self._fixed: dict[str, str] = {}
        self._queues: dict[str, list[str]] = {}
        for piece, value in answers.items():
            if not isinstance(piece, str):
                raise AnswersError(f"{origin}: a prompt is text, not {piece!r}.")
            if isinstance(value, str):
                self._fixed[piece] = value
            elif isinstance(value, list) and all(isinstance(item, str) for item in value):
                self._queues[piece] = list(value)
            else:
                raise AnswersError(
                    f"{origin}: the answer to {piece!r} must be a string or a list of strings, "
                    f"not {value!r}."
                )
        self.way_out = f"Add its prompt, or a piece of it, to {origin}."

    async def answer(self, prompt: str, password: bool) -> str | None:
        """Return the answer whose piece of prompt is the longest that fits, or None."""
        pieces = sorted((*self._fixed, *self._queues), key=len, reverse=True)
        for piece in pieces:
            if piece in prompt:
                if piece in self._fixed:
                    return self._fixed[piece]
                if self._queues[piece]:
                    return self._queues[piece].pop(0)
        return None


class CallbackAnswers:
    """Asks a function, plain or async."""

    way_out = "The function given for the answers returned None: return a string for it."

    def __init__(self, callback: AnswerCallback) -> None:
        """Take the function; it is called as ``callback(prompt, password)``."""
        self._callback = callback

    async def answer(self, prompt: str, password: bool) -> str | None:
        """Return what the function says.

        Raises:
            AnswersError: it returned neither a string nor None.
        """
        value = self._callback(prompt, password)
        if inspect.isawaitable(value):
            value = await value
        if value is None or isinstance(value, str):
            return value
        raise AnswersError(
            f"The function given for the answers returned {value!r} for the prompt {prompt!r}; "
            "it must return a string, or None for no answer."
        )


def open_answers(source: AnswerSource) -> Answers:
    """Return the answers for one run.

    Args:
        source: path of a text file (one answer per line, in order) or of a ``.json`` file (an
            object of prompt pieces to answers), such a mapping itself, or a function
            ``(prompt, password) -> str | None``.

    Raises:
        AnswersError: the file can't be read or does not hold answers.
    """
    if isinstance(source, Mapping):
        return PromptAnswers(source, "the answers")
    if callable(source):
        return CallbackAnswers(source)
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnswersError(f"Can't read the answers from {path}: {error}") from error
    if path.suffix != ".json":
        # Not splitlines(): it also splits at form feeds and other characters an answer may hold.
        lines = text.removesuffix("\n").split("\n") if text else []
        return OrderedAnswers(lines, str(path))
    try:
        answers = json.loads(text)
    except ValueError as error:
        raise AnswersError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(answers, dict):
        raise AnswersError(
            f"{path} must hold an object of prompts and answers; for answers in order, "
            "write one per line in a text file."
        )
    return PromptAnswers(answers, str(path))
