"""Random programs, and what a namespace looks like. `test_programs` runs this in a kernel.

A program is a list of statements over a few names, made to share: lists in dicts in instances,
views of arrays, functions with mutable defaults, class attributes. `look` describes a namespace up
to isomorphism: values, types, and which of them are the same object.
"""

from __future__ import annotations

import json
import random
import types
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

NAMES = ["a", "b", "c", "d", "e", "f"]

SETUP = """
import numpy as np
from collections import deque
class Thing:
    shared = []
    def put(self, value):
        self.value = value
        self.shared.append(1)
class Slotted:
    __slots__ = ("x", "y")
"""

STATEMENTS = [
    "{a} = 1",
    "{a} = 'text'",
    "{a} = [{b}, {c}]",
    "{a} = [[], {b}]",
    "{a} = (1, {b})",
    "{a} = {{'k': {b}, 'l': []}}",
    "{a} = {{1, 2, 3}}",
    "{a} = deque([{b}], maxlen=5)",
    "{a} = bytearray(b'abc')",
    "{a} = Thing()",
    "{a} = Slotted()",
    "{a} = np.arange(6.0)",
    "{a} = np.array([{b}, None], dtype=object)",
    "{a} = {b}[1:4]",
    "{a} = {b}",
    "{a} = {b}.copy()",
    "{a} = {b}[0]",
    "{a} = Thing.shared",
    "{a} = lambda q=[]: (q.append(1), {b})",
    "def {a}(value={b}):\n    global {c}\n    {c} = [value]",
    "{a} = (lambda cell: lambda: cell.append(1))([{b}])",
    "{a}.append({b})",
    "{a}.append([{a}])",
    "{a}.appendleft(7)",
    "{a}.pop()",
    "{a}.clear()",
    "{a}.reverse()",
    "{a}.extend({b})",
    "{a}.add(9)",
    "{a}['k'] = {b}",
    "{a}['new'] = [{b}]",
    "del {a}['k']",
    "{a}[0] = {b}",
    "{a}[:] = 5",
    "{a} += 1",
    "{a} += [2]",
    "{a}.x = {b}",
    "{a}.y = [{b}, {b}]",
    "{a}.put({b})",
    "del {a}.x",
    "{a}()",
    "{a}.self = {a}",
    "del {a}",
    "Thing.shared.append({b})",
    "Thing.extra = {b}",
    "globals()['{a}'] = {b}",
    "np.random.seed(3)",
]

statement = st.builds(
    lambda template, a, b, c: template.format(a=a, b=b, c=c),
    st.sampled_from(STATEMENTS),
    *[st.sampled_from(NAMES)] * 3,
)
programs = st.lists(statement, min_size=1, max_size=12)


def cell(statements: list[str]) -> str:
    """Return a cell in which a statement that fails keeps no other from running."""
    return "\n".join(
        "try:\n" + "".join(f"    {line}\n" for line in one.split("\n")) + "except Exception: pass"
        for one in statements
    )


class Look:
    """A namespace described.

    Attributes:
        objects: the mutable objects met, in order.
        description: equal for isomorphic namespaces.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._memory: dict[int, tuple[int, Any]] = {}
        names = [name for name in namespace if name in {*NAMES, "Thing", "Slotted"}]
        self.description = [(name, self._describe(namespace[name])) for name in names]

    def _describe(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in {int, float, str, bool, bytes} or isinstance(value, np.generic):
            return kind.__name__, repr(value)
        if kind is tuple:
            return "tuple", [self._describe(item) for item in value]
        if id(value) in self._numbers:
            return "same", self._numbers[id(value)]
        self._numbers[id(value)] = len(self.objects)
        self.objects.append(value)
        return kind.__name__, list(self._parts(value))

    def _parts(self, value: Any) -> Iterator[Any]:
        if isinstance(value, (list, deque)):
            yield from map(self._describe, value)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield self._describe(key), self._describe(item)
        elif isinstance(value, (set, bytearray)):
            yield repr(sorted(value))
        elif isinstance(value, np.ndarray):
            yield value.dtype.str, value.shape, value.strides, value.flags.writeable
            if value.dtype.hasobject:
                yield from map(self._describe, value.ravel().tolist())
            else:
                yield value.tobytes()
                owner = value
                while isinstance(owner.base, np.ndarray):
                    owner = owner.base
                first = self._memory.setdefault(owner.ctypes.data, (len(self._memory), value))
                yield first[0], value.ctypes.data - first[1].ctypes.data
        elif isinstance(value, types.FunctionType):
            yield value.__name__, value.__code__.co_code
            yield self._describe(value.__defaults__)
            for filled in value.__closure__ or ():
                yield self._describe(filled.cell_contents)
        elif isinstance(value, types.MethodType):
            yield self._describe(value.__self__)
        elif isinstance(value, type):
            for name in ("shared", "extra"):
                if name in vars(value):
                    yield name, self._describe(vars(value)[name])
        elif type(value).__name__ == "Slotted":
            for name in ("x", "y"):
                if hasattr(value, name):
                    yield name, self._describe(getattr(value, name))
        else:
            for name, item in vars(value).items():
                yield name, self._describe(item)


def _profile(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        report_multiple_bugs=False,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Programs:
    """Runs programs against the timeline of a kernel.

    Args:
        kernel: the one this runs in.
    """

    def __init__(self, kernel: Any) -> None:
        self.timeline = kernel.savepoints.timeline
        self.namespace: dict[str, Any] = kernel.shell.user_ns
        self._name = kernel.shell.compile.cache
        self.run(SETUP)
        self.empty = self.timeline.commit("outside", full=True)

    def run(self, text: str) -> None:
        """Run a cell; its functions and classes have sources, as those of users."""
        code = compile(text, self._name(text), "exec", dont_inherit=True)
        exec(code, self.namespace)
        self.timeline.note_code(code)

    def commit(self, statements: list[str]) -> Look:
        self.run(cell(statements))
        self.timeline.commit("cell")
        self.timeline.forget_suspects()
        return Look(self.namespace)

    def start_again(self) -> None:
        self.timeline.checkout(self.empty)
        self.timeline.forget_suspects()

    def roll_back(self, examples: int, number: int) -> int:
        """Check that a program that fails leaves no trace; returns how many were run.

        Args:
            examples: how many to run.
            number: which ones: the same each time.
        """

        run: list[int] = []

        @seed(number)
        @_profile(examples)
        @given(programs, programs)
        def check(before: list[str], failing: list[str]) -> None:
            self.start_again()
            self.commit(before)
            was = Look(self.namespace)  # holds every object
            base = self.timeline.prepare_rollback()
            self.run(cell(failing))
            self.timeline.roll_back(base, over=True)
            now = Look(self.namespace)
            assert now.description == was.description
            for one, other in zip(was.objects, now.objects, strict=True):
                assert one is other, f"{type(one)} is another object"
            run.append(1)

        check()
        return len(run)

    def travel(self, examples: int, number: int) -> int:
        """Check that any commit can be gone to, with only touched names looked at."""

        run: list[int] = []

        @seed(number)
        @_profile(examples)
        @given(st.lists(programs, min_size=2, max_size=5), st.lists(st.integers(0, 4), max_size=5))
        def check(cells: list[list[str]], visits: list[int]) -> None:
            self.start_again()
            states = []
            for statements in cells:
                look = self.commit(statements)
                states.append((self.timeline.head, look.description))
            for visit in visits:
                commit, description = states[visit % len(states)]
                self.timeline.checkout(commit)
                assert Look(self.namespace).description == description
            run.append(1)

        check()
        return len(run)

    def write(self, examples: int, number: int, file: str) -> int:
        """Commit the cells of random programs; write down what each commit should hold."""

        expected: dict[int, str] = {}

        @seed(number)
        @_profile(examples)
        @given(st.lists(programs, min_size=2, max_size=5))
        def check(cells: list[list[str]]) -> None:
            self.start_again()
            for statements in cells:
                look = self.commit(statements)
                expected[self.timeline.head.number] = repr(look.description)

        check()
        Path(file).write_text(json.dumps(expected))
        return len(expected)

    def read(self, file: str) -> int:
        """Check that each commit holds what another process wrote down."""
        expected = json.loads(Path(file).read_text())
        for number in random.Random(0).sample(sorted(expected), len(expected)):
            self.timeline.checkout(self.timeline.log.find(number))
            assert repr(Look(self.namespace).description) == expected[number], number
        return len(expected)
