"""Errors of the manager side; each says what happened, where, and what the user can do now."""

from __future__ import annotations


class NoAnswerError(Exception):
    """A cell asked for input in a headless run and there was no answer for it.

    The cell was interrupted, the run ended, and the notebook keeps every output made until then.

    Attributes:
        cell_index: position of the cell in the notebook, from 0.
        execution_count: how many cells ran up to this one; the number a front end shows.
        source: the source of the cell.
        prompt: what the cell asked.
        password: True if it asked through ``getpass()``.
    """

    def __init__(
        self,
        *,
        cell_index: int,
        execution_count: int,
        source: str,
        prompt: str,
        password: bool,
        way_out: str,
    ) -> None:
        """Describe the question nobody answered.

        Args:
            cell_index: position of the cell in the notebook, from 0.
            execution_count: how many cells ran up to this one.
            source: the source of the cell.
            prompt: what the cell asked.
            password: True if it asked through ``getpass()``.
            way_out: one sentence that says how to give the missing answer.
        """
        asked = "a password" if password else "input"
        first, *more = source.strip().splitlines() or [""]
        cell = f"{first} ..." if more else first
        super().__init__(
            f"Cell In [{execution_count}], which begins {cell!r}, asked for {asked} with the "
            f"prompt {prompt!r} and there is no answer for it. {way_out}"
        )
        self.cell_index = cell_index
        self.execution_count = execution_count
        self.source = source
        self.prompt = prompt
        self.password = password


class AnswersError(ValueError):
    """The answers given for a headless run can't be used, and no cell was run because of it."""


class RunInterrupted(Exception):
    """The run was stopped by SIGINT (Ctrl-C) or SIGTERM; its outputs so far are in the notebook."""
