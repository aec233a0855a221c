"""A session of a gigabyte, and the cells whose cost is measured in it. All of it is source text."""

from __future__ import annotations

from dataclasses import dataclass

PIECE = 1 << 20
"""Bytes of an array stored when one element of it changes (`fingerprint.BUFFER_PIECE`)."""

STREAM_PIECE = 1 << 16
"""Bytes of a pickle stored when its end changes (`fingerprint.STREAM_PIECE`)."""

ROLLBACK_MS = 15.0
VERIFY_MS_PER_GB = 150.0
"""A rollback looks at everything: its limit is the sum of both."""


def namespace(scale: float) -> list[str]:
    """The cells that make the namespace; 0.86 GB of data for a scale of 1."""
    rows = round(1_500_000 * scale)
    arrays = "\n".join(f"a{i} = np.random.rand({round(12_500_000 * scale)})" for i in range(5))
    # Not by a function of the notebook: Kishu links it with the frames, can't pickle it, and so
    # would store nothing and run the cell again to restore any of them.
    frames = "\n".join(
        f"df{i} = pd.DataFrame(np.random.rand({rows}, 8), columns=list('abcdefgh'))\n"
        f"df{i}['id'] = np.arange({rows})\n"
        f"df{i}['kind'] = np.random.randint(0, 100, {rows}, dtype='int32')"
        for i in range(3)
    )
    data = f"""\
np.random.seed(0)
arr8 = np.random.rand({round(1_000_000 * scale)})
lst = list(range({round(1_000_000 * scale)}))
dct = {{f"key {{i}}": f"value {{i}}" for i in range({round(100_000 * scale)})}}
"""
    classes = "\n".join(
        f"class C{i}:\n    size = {i}\n    def area(self): return 2 * self.size" for i in range(11)
    )
    kinds = (
        "{{'a': {i}, 'b': [1, 2, 3]}}",
        "[{i}, 'text', 2.5]",
        "({i}, 'text', None)",
        "'text {i}'",
        "{{{i}, {i} + 1}}",
        "C3()",
        "{i} * 1.5",
    )
    small = "\n".join(f"s{i} = {kinds[i % len(kinds)].format(i=i)}" for i in range(200))
    functions = "\n".join(
        f"def f{i}(x): return x + {i}" if i < 20 else f"def f{i}(x): return f{i - 20}(x) * s6"
        for i in range(40)
    )
    imports = "import numpy as np, pandas as pd"
    return [imports, data, arrays, frames, classes, small, functions]


@dataclass(frozen=True, slots=True)
class Kind:
    """A cell to measure.

    Args:
        label: How the table calls it.
        code: The cell; `{i}` is another number each time.
        limit: Milliseconds its commit may take.
        touched: Bytes that it changes, as far as they are larger than any book-keeping.
        undone: Whether it changes anything that %undo would take back.
        before: A cell that makes the next one do the same as the first time.
    """

    label: str
    code: str
    limit: float
    touched: float | None = None
    undone: bool = True
    before: str = ""

    def cell(self, i: int) -> str:
        """The cell for the `i`-th time."""
        return self.code.replace("{i}", str(i))


def kinds(scale: float) -> tuple[Kind, ...]:
    """The cells that are measured, for a namespace of that scale."""
    return (
        Kind("`q = 1`", "q = {i}", 2),
        Kind("item of a small dict", "s0['a'] = {i}", 2),
        Kind("8 MB array += 1", "arr8 += 1 + {i} / 997", 15, 8e6 * scale),
        # Spread over the array, so that no two samples change the same piece.
        Kind("1 element of 100 MB", "a1[{i} * 262_147 % len(a1)] = {i}", 15, PIECE),
        Kind("append to list of 1e6", "lst.append({i})", 40, STREAM_PIECE),
        Kind(
            "12 MB column",
            "df0['new'] = df0['a'] * {i}",
            25,
            12e6 * scale,
            before="if 'new' in df0: del df0['new']",
        ),
        Kind("read 100 MB", "float(a2.sum())", 15, undone=False),
        Kind("call `f3(2)`", "f3(2)", 2, undone=False),
        Kind("redefine function", "def f5(x): return x + {i}", 2),
    )


USE = "f39(2), float(a4[-1]), len(dct), len(df2)"
"""A cell that needs some of everything."""

LOOPS = {
    "loop of 1e6 at top level": "for loop_i in range(1_000_000): loop_sum = loop_i + s6",
    "loop of 1e6 global reads in a function": "loop_in_function()",
}
LOOP_FUNCTION = "def loop_in_function():\n    for i in range(1_000_000): s6"
