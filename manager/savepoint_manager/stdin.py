"""The stdin channel of a run without a keyboard: each input_request gets a reply or an interrupt.

A kernel that waits for an input_reply waits for ever, so a question without an answer has to be
ended by an interrupt. Code may catch that and ask again; `refuse` interrupts every later question
too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jupyter_client.client import KernelClient
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_async

from .answers import Answers

Message = dict[str, Any]


class Unanswered(Exception):
    """There was no answer; the run turns it into a NoAnswerError that names the cell."""

    def __init__(self, prompt: str, password: bool) -> None:
        """Keep what was asked."""
        super().__init__(prompt)
        self.prompt = prompt
        self.password = password


class StdinPump:
    """Reads the stdin channel of one client; one method at a time, on the client's event loop."""

    def __init__(
        self,
        kc: KernelClient,
        km: KernelManager,
        answers: Answers,
        on_answer: Callable[[Message, str], None],
    ) -> None:
        """Prepare the pump; nothing is read before one of its methods runs.

        Args:
            kc: client with started channels.
            km: manager of the same kernel, to interrupt it.
            answers: who knows the answers.
            on_answer: called with the input_request and the answer before the reply goes out.
        """
        self._kc = kc
        self._km = km
        self._answers = answers
        self._on_answer = on_answer

    async def answer(self) -> None:
        """Answer requests until one can't be answered.

        Raises:
            Unanswered: there is no answer left; the kernel still waits.
            Exception: whatever a user's answer function raised; the kernel still waits.
        """
        while True:
            request = await self._next_request()
            prompt, password = request["content"]["prompt"], request["content"]["password"]
            value = await self._answers.answer(prompt, password)
            if value is None:
                raise Unanswered(prompt, password)
            self._on_answer(request, value)
            # The parent names the request this answers; kernels that check it refuse any other.
            reply = self._kc.session.msg("input_reply", {"value": value}, parent=request)
            self._kc.stdin_channel.send(reply)

    async def refuse(self) -> None:
        """Interrupt the waiting kernel, and again at every further request, until cancelled."""
        while True:
            await ensure_async(self._km.interrupt_kernel())
            await self._next_request()

    async def _next_request(self) -> Message:
        while True:
            message: Message = await ensure_async(self._kc.stdin_channel.get_msg(timeout=None))
            if message["header"]["msg_type"] == "input_request":
                return message
