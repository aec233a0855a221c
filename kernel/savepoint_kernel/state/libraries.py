"""Global state of numpy, torch, matplotlib and pandas; and the list of all built-in participants.

An optional library is looked up in `sys.modules` and never imported: a cell that doesn't use it
doesn't wait for it. Until it is imported there is nothing to capture, and going back to then gives
it the settings it starts with: a rolled-back `plt.style.use` of the cell that imports pyplot too.

Left out: matplotlib's ``backend``, as in `matplotlib.rc_context` (pyplot has loaded one or not,
which the name alone does not undo); a global numpy generator other than the legacy MT19937; the
generators of other libraries, and those of torch on GPUs.

A capture of all runs at every cell. With numpy, matplotlib and pandas imported it takes 0.25 ms
(CPython 3.11, AMD EPYC, others busy on it: median of ten runs, which took 0.20 to 0.30), by ::

    python -m timeit -s "import matplotlib, numpy.random, pandas
    from savepoint_kernel.state.libraries import builtin_participants
    from savepoint_kernel.state.process import Participants
    participants = Participants(builtin_participants())" "participants.capture()"
"""

from __future__ import annotations

import copy
import importlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from .interpreter import interpreter_participants
from .process import Participant

_MersenneTwister = tuple[str, bytes, int, int, float]

_ATOMS = frozenset({str, bool, float, int, tuple, type(None)})


def _imported(module: str, attribute: str) -> Any:
    """The attribute, or None while the module is not imported, or only in part."""
    return getattr(sys.modules.get(module), attribute, None)


def _required(module: str, attribute: str) -> Any:
    found = _imported(module, attribute)
    if found is None:
        raise LookupError(f"{module} is not imported; import it and restore again")
    return found


class _NumpyRandom:
    """The generator behind `numpy.random.seed`, `numpy.random.rand` and their like."""

    name = "numpy.random"

    def capture(self) -> _MersenneTwister | None:
        get_state = _imported("numpy.random", "get_state")
        if get_state is None:
            return None
        state = get_state(legacy=False)
        kind = state["bit_generator"]
        if kind != "MT19937":
            raise NotImplementedError(f"the state of a global {kind} generator is not captured")
        inner = state["state"]
        return kind, inner["key"].tobytes(), inner["pos"], state["has_gauss"], state["gauss"]

    def restore(self, token: _MersenneTwister | None) -> None:
        if token is None:  # seeded by the system, as at the import
            _required("numpy.random", "seed")()
            return
        if "numpy" in sys.modules:  # which does not import it by itself
            importlib.import_module("numpy.random")
        set_state = _required("numpy.random", "set_state")
        kind, key, *rest = token
        set_state((kind, sys.modules["numpy"].frombuffer(key, "uint32"), *rest))


class _TorchRandom:
    """The generator behind `torch.manual_seed`, `torch.rand` and their like on the CPU."""

    name = "torch.random"

    def capture(self) -> bytes | None:
        get_state = _imported("torch", "get_rng_state")
        return None if get_state is None else get_state().numpy().tobytes()

    def restore(self, token: bytes | None) -> None:
        if token is None:
            _required("torch", "seed")()
            return
        set_state = _required("torch", "set_rng_state")
        torch = sys.modules["torch"]
        set_state(torch.frombuffer(bytearray(token), dtype=torch.uint8))


class _NumpyErrors:
    """`numpy.seterr`, `numpy.seterrcall` and `numpy.setbufsize`."""

    name = "numpy.errstate"
    _first = ({"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}, None, 8192)

    def capture(self) -> tuple[dict[str, str], Any, int] | None:
        if _imported("numpy", "geterr") is None:
            return None
        numpy = sys.modules["numpy"]
        return numpy.geterr(), numpy.geterrcall(), numpy.getbufsize()

    def restore(self, token: tuple[dict[str, str], Any, int] | None) -> None:
        errors, call, size = token or self._first
        _required("numpy", "seterr")(**errors)
        _required("numpy", "seterrcall")(call)
        _required("numpy", "setbufsize")(size)


class _NumpyPrinting:
    """`numpy.set_printoptions`."""

    name = "numpy.printoptions"
    _first = {
        **{"edgeitems": 3, "threshold": 1000, "precision": 8, "linewidth": 75, "suppress": False},
        **{"floatmode": "maxprec", "sign": "-", "nanstr": "nan", "infstr": "inf"},
        **{"formatter": None, "legacy": False},
    }

    def capture(self) -> dict[str, Any] | None:
        get = _imported("numpy", "get_printoptions")
        if get is None:
            return None
        token: dict[str, Any] = get()
        return token | {"formatter": copy.copy(token["formatter"])}

    def restore(self, token: dict[str, Any] | None) -> None:
        known = _required("numpy", "get_printoptions")()  # other versions have others
        options = {key: value for key, value in (token or self._first).items() if key in known}
        options["formatter"] = copy.copy(options["formatter"])
        sys.modules["numpy"].set_printoptions(**options)


class _MatplotlibParams:
    """`matplotlib.rcParams`, with lists and cycles copied: both are often changed in place."""

    name = "matplotlib.rcParams"

    # The dict underneath: RcParams' own methods sort the keys, warn about deprecated ones and
    # load a backend when asked for it. A copy made through them takes 0.19 ms, this one 0.05 ms.

    def capture(self) -> dict[str, Any] | None:
        params = _imported("matplotlib", "rcParams")
        if params is None:
            return None
        return {
            key: value if type(value) in _ATOMS else copy.copy(value)
            for key, value in dict.items(params)
            if key != "backend"
        }

    def restore(self, token: dict[str, Any] | None) -> None:
        params = _required("matplotlib", "rcParams")
        if token is None:
            _required("matplotlib", "rc_file_defaults")()
            return
        for key, value in token.items():
            # Another version has other keys; this one's stay, as it relies on them.
            if key in params.validate and dict.get(params, key, params) != value:
                dict.__setitem__(params, key, copy.copy(value))


class _PandasOptions:
    """Everything `pandas.set_option` can set."""

    name = "pandas.options"

    def capture(self) -> dict[str, Any] | None:
        options = _imported("pandas", "options")
        # The nested dict underneath, as get_option warns about deprecated options.
        return None if options is None else _copied(options.d)

    def restore(self, token: dict[str, Any] | None) -> None:
        options = _required("pandas", "options")
        pandas = sys.modules["pandas"]
        now = dict(_flat(options.d))
        failures = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated options, which are put back as well
            for key, value in _flat(token) if token is not None else _pandas_defaults():
                if key in now and now[key] == value:
                    continue
                try:
                    pandas.set_option(key, value)
                except Exception as error:
                    failures.append(f"{key}: {error}")
        if failures:
            raise ValueError("; ".join(failures))


def _pandas_defaults() -> Iterator[tuple[str, Any]]:
    """Yield full names and values. Setting all, as `pandas.reset_option` does, loads matplotlib."""
    registered = sys.modules["pandas._config.config"]._registered_options
    return ((key, option.defval) for key, option in registered.items())


def _copied(options: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _copied(value) if isinstance(value, dict) else value for key, value in options.items()
    }


def _flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full names and values, as `pandas.set_option` takes them."""
    for key, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def builtin_participants() -> list[Participant]:
    """Return what every kernel captures, in the order of the calls.

    Call it in the process that runs the cells, right before the first one: what is different later
    is what the session changed (see `process`).
    """
    return [
        *interpreter_participants(),
        _NumpyRandom(),
        _TorchRandom(),
        _NumpyErrors(),
        _NumpyPrinting(),
        _MatplotlibParams(),
        _PandasOptions(),
    ]
