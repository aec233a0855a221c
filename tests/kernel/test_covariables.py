"""Co-variables: names that share mutable state are found, and no others."""

from __future__ import annotations

import collections
import datetime
import decimal
import functools
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from savepoint_kernel.state import graph
from savepoint_kernel.state.graph import covariables, footprint, is_atom

SETUP = """
import array, collections, ctypes, dataclasses, datetime, enum, functools, types, weakref
import numpy as np, pandas as pd

class Thing:
    shared = []
    def __init__(self, **attributes):
        self.__dict__.update(attributes)
    def method(self):
        return self

class Slotted:
    __slots__ = ("held", "__weakref__")
    def __init__(self, held):
        self.held = held

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: object = None

def closure(held):
    def inner(): return held
    return inner

def two_closures():
    count = 0
    def up():
        nonlocal count
        count += 1
    def get(): return count
    return up, get
"""

LINKED = {
    "alias of a list": "a = []; b = a",
    "alias of a dict": "a = {}; b = a",
    "alias of an instance": "a = Thing(); b = a",
    "alias of a function": "def a(): pass\nb = a",
    "alias of an array": "a = np.zeros(3); b = a",
    "list in a list": "a = []; b = [1, [a]]",
    "list in a tuple": "a = []; b = (a,)",
    "two tuples with one list": "shared = []; a = (1, shared); b = (2, shared); del shared",
    "list as a dict's value": "a = []; b = {1: a}",
    "instance as a dict's key": "a = Thing(); b = {a: 1}",
    "attribute": "a = []; b = Thing(x=a)",
    "slot": "a = []; b = Slotted(a)",
    "dataclass": "a = []; b = Point(a)",
    "instance's dict": "a = Thing(); b = a.__dict__",
    "class attribute": "a = Thing; b = Thing.shared",
    "bound method": "a = Thing(); b = a.method",
    "method of a list": "a = []; b = a.append",
    "two methods of one list": "shared = []; a = shared.append; b = shared.pop; del shared",
    "method in a list": "a = []; b = [len, a.append]",
    "special method of a list": "a = []; b = a.__len__",
    "read-only view of a dict": "a = {}; b = types.MappingProxyType(a)",
    "read-only view of a mapping": "a = collections.UserDict(); b = types.MappingProxyType(a)",
    "two read-only views": (
        "shared = {}; a, b = map(types.MappingProxyType, (shared, shared)); del shared"
    ),
    "list in a read-only view": "a = []; b = [types.MappingProxyType({1: a})]",
    "partial": "a = []; b = functools.partial(print, a)",
    "lru_cache": "a = functools.lru_cache(lambda: 1); b = Thing(f=a)",
    "closure": "a = []; b = closure(a)",
    "cells of two closures": "a, b = two_closures()",
    "default": "a = []\ndef b(x=a): pass",
    "keyword default": "a = []\ndef b(*, x=a): pass",
    "function attribute": "a = []\ndef b(): pass\nb.x = a",
    "weak reference": "a = Thing(); b = weakref.ref(a)",
    "weak value dictionary": "a = Thing(); b = weakref.WeakValueDictionary(k=a)",
    "deque": "a = []; b = collections.deque([a])",
    "ordered dict": "a = []; b = collections.OrderedDict(k=a)",
    "default dict": "a = []; b = collections.defaultdict(list, k=a)",
    "view": "a = np.zeros(10); b = a[3:5]",
    "overlapping views": "base = np.zeros(10); a = base[2:6]; b = base[4:8]; del base",
    "reversed view": "a = np.zeros(10); b = a[::-1]",
    "transposed view": "a = np.zeros((3, 4)); b = a.T[1:]",
    "reshaped view": "a = np.zeros((3, 4)); b = a.reshape(-1)",
    "array of objects": "a = []; b = np.array([a, 1], dtype=object)",
    "list in an array": "a = []; b = np.empty(2, dtype=object); b[0] = a",
    "frombuffer": "a = bytearray(8); b = np.frombuffer(a, dtype='u1')",
    "memoryview": "a = bytearray(8); b = memoryview(a)",
    "memoryview of an array": "a = array.array('d', [1.0]); b = memoryview(a)",
    "frame and its column's values": (
        "a = pd.DataFrame({'x': np.zeros(5)}); b = a['x'].to_numpy()"
    ),
    "frame of an array": "b = np.zeros((5, 2)); a = pd.DataFrame(b, copy=False)",
    "module": "a = types.ModuleType('made'); a.x = []; b = Thing(x=a.x)",
    "generator": "a = []\nb = (x for x in a)",
    "cycle": "a = []; a.append(a); b = [a]",
    "attribute of a class without a name": ("class C: shared = []\na = C(); b = C.shared\ndel C"),
    "closure of a class without a name": (
        "def make(b):\n    class C:\n        def m(self): return b\n    return C()\n"
        "b = []; a = make(b)"
    ),
    "class in a class": "class a:\n    class C: shared = []\nb = a.C.shared",
}

APART = {
    "equal lists": "a = [1, 'x']; b = [1, 'x']",
    "equal interned keys": "a = {'key': 1}; b = {'key': 1}",
    "independent arrays": "a = np.zeros(5); b = np.zeros(5)",
    "adjacent halves": "base = np.zeros(10); a = base[:5].copy(); b = base[5:].copy(); del base",
    "independent frames": "a = pd.DataFrame({'x': [1]}); b = pd.DataFrame({'x': [1]})",
    "copy of a frame": "a = pd.DataFrame({'x': [1.5], 'y': ['t']}); b = a.copy()",
    "a string": "a = ['long string']; b = [a[0]]",
    "a tuple of atoms": "t = (1, 2, 3); a = [t]; b = [t]; del t",
    "a date": "d = datetime.date(2020, 1, 1); a = [d]; b = [d]; del d",
    "instances of one class": "a = Thing(); b = Thing()",
    "instance and its class": "a = Thing; b = Thing()",
    "enum members": "a = [Colour.RED]; b = [Colour.RED]",
    "functions that use one global": "g = []\ndef a(): g\ndef b(): g\ndel g",
    "a module": "a = [np]; b = [np]",
    "a type": "a = [int]; b = [int]",
    "dtype": "d = np.dtype('f8'); a = [d]; b = [d]; del d",
    "numpy scalar": "s = np.float64(1.5); a = [s]; b = [s]; del s",
    "library function": "a = [functools.reduce]; b = [collections.namedtuple]",
    "built-in function": "a = len; b = [len]",
    "method of a built-in class": "a = dict.fromkeys; b = [a]",
    "static method": "a = str.maketrans; b = [a]",
    "special method of a class": "a = Thing.__call__; b = [a]",
    "method of a string": "a = 'x'.upper; b = [a]",
    "special method of a number": "a = (1).__add__; b = [a]",
    "attributes of a class": "a = vars(Thing); b = [a, Thing.shared]",
    "attributes of a built-in class": "a = vars(int); b = [a]",
    "read-only view of no one else's dict": (
        "d = {}; a = types.MappingProxyType(d.copy()); b = types.MappingProxyType(d); del d"
    ),
    "ufunc": "a = [np.sin]; b = [np.sin]",
    "default factory": "a = collections.defaultdict(list); b = collections.defaultdict(list)",
    "empty tuple": "a = [()]; b = [()]",
    "empty views": "base = np.zeros(4); a = [base.size]; b = [base.shape]; del base",
}

SETUP_NAMES: dict[str, Any] = {"__name__": "__main__"}
exec(SETUP, SETUP_NAMES)


def groups_of(code: str) -> list[frozenset[str]]:
    namespace = dict(SETUP_NAMES)
    exec(code, namespace)
    # What the garbage collector holds ids for must not change while both are looked at.
    return covariables({name: footprint(namespace[name], namespace) for name in ("a", "b")})


@pytest.mark.parametrize("code", LINKED.values(), ids=LINKED)
def test_names_that_share_mutable_state_are_one_covariable(code):
    assert groups_of(code) == [frozenset({"a", "b"})]


@pytest.mark.parametrize("code", APART.values(), ids=APART)
def test_names_that_share_nothing_mutable_are_apart(code):
    assert groups_of(code) == [frozenset({"a"}), frozenset({"b"})]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("len", True),
        ("dict.fromkeys", True),
        ("str.maketrans", True),
        ("int.__call__", True),
        ("vars(Thing)", True),
        ("vars(Slotted)", True),
        ("vars(int)", True),
        ("vars(ctypes.c_int)", True),
        ("[].append", False),
        ("[].__len__", False),
        ("'x'.upper", False),
        ("types.MappingProxyType({})", False),
        ("types.MappingProxyType(collections.UserDict(__doc__=None))", False),
    ],
)
def test_an_atom_holds_nothing_that_can_change(code, expected):
    assert is_atom(eval(code, dict(SETUP_NAMES))) is expected


def test_the_owner_of_a_method_is_not_asked_what_it_is():
    class Hostile(list):  # type: ignore[type-arg]
        @property
        def __class__(self):
            raise AssertionError

    assert not is_atom(Hostile().append)


def test_sharing_is_transitive():
    x: list[Any] = []
    y: list[Any] = []
    namespace = {"a": x, "b": [x, y], "c": y, "d": []}
    prints = {name: footprint(value, namespace) for name, value in namespace.items()}
    assert covariables(prints) == [frozenset("abc"), frozenset("d")]


def test_the_walk_stops_at_the_namespace():
    namespace: dict[str, Any] = {"a": [], "b": []}
    namespace["ns"] = [namespace]
    prints = {name: footprint(value, namespace) for name, value in namespace.items()}
    assert covariables(prints) == [frozenset({"a"}), frozenset({"b"}), frozenset({"ns"})]


def test_a_function_of_a_library_does_not_reach_its_module():
    prints = footprint(collections.namedtuple, {})
    assert prints.objects == frozenset()


def test_a_graph_too_large_to_walk_is_linked_with_every_other_such(monkeypatch):
    monkeypatch.setattr(graph, "LIMIT", 100)
    namespace = {
        "a": [[i] for i in range(200)],
        "b": [[i] for i in range(200)],
        "c": [[i] for i in range(20)],
    }
    prints = {name: footprint(value, namespace) for name, value in namespace.items()}
    assert [print_.complete for print_ in prints.values()] == [False, False, True]
    assert covariables(prints) == [frozenset({"a", "b"}), frozenset({"c"})]


def test_a_million_numbers_are_not_visited_one_by_one(monkeypatch):
    monkeypatch.setattr(graph, "LIMIT", 100)
    assert footprint(list(range(1_000_000)), {}).complete
    assert footprint({str(i): i for i in range(10_000)}, {}).complete


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), iter([1]), open, decimal.getcontext(), weakref.WeakSet(), object()],
    ids=lambda value: type(value).__name__,
)
def test_odd_values_have_a_footprint(value):
    assert footprint(value, {}).complete


# -- random graphs -------------------------------------------------------------------------------

LEAVES = st.one_of(st.integers(), st.text(max_size=3), st.none(), st.just(datetime.date.min))
CONTAINERS = ("list", "dict", "tuple", "instance", "deque", "set", "partial")


class Node:
    pass


def build(kind: str, parts: list[Any]) -> Any:
    if kind == "list":
        return list(parts)
    if kind == "dict":
        return dict(enumerate(parts))
    if kind == "tuple":
        return tuple(parts)
    if kind == "deque":
        return collections.deque(parts)
    if kind == "set":
        return {(i, id(part)) for i, part in enumerate(parts)}  # holds atoms only
    if kind == "partial":
        return functools.partial(print, *parts)
    node = Node()
    node.parts = parts  # type: ignore[attr-defined]
    return node


@given(
    st.lists(
        st.tuples(st.sampled_from(CONTAINERS), st.lists(st.integers(0, 30), max_size=3)),
        min_size=2,
        max_size=12,
    ),
    st.integers(2, 5),
)
def test_random_graphs_are_grouped_by_what_they_reach(shape, names):
    """Every object gets parts among those made before it; what it reaches is known by that."""
    objects: list[Any] = []
    reaches: list[set[int]] = []
    for kind, chosen in shape:
        indexes = [i % len(objects) for i in chosen] if objects else []
        objects.append(build(kind, [objects[i] for i in indexes]))
        held = indexes if kind != "set" else []
        own = {len(objects) - 1} if kind != "tuple" else set()
        reaches.append(own.union(*(reaches[i] for i in held)) if held else own)
    namespace = {f"n{i}": objects[-1 - i % len(objects)] for i in range(names)}
    reached = {f"n{i}": reaches[-1 - i % len(objects)] for i in range(names)}
    expected: list[tuple[set[str], set[int]]] = []
    for name, ids in reached.items():
        joined = [group for group in expected if group[1] & ids]
        merged = ({name}.union(*(g[0] for g in joined)), set(ids).union(*(g[1] for g in joined)))
        expected = [group for group in expected if group not in joined] + [merged]
    prints = {name: footprint(value, namespace) for name, value in namespace.items()}
    found = covariables(prints)
    assert {frozenset(group[0]) for group in expected} == set(found)


def test_footprint_of_an_array_of_objects_has_nothing_that_is_gone_after_the_walk() -> None:
    inner = [1]
    values = np.array(["text", inner], dtype=object)
    assert footprint(values, {}).objects == {id(values), id(inner)}
