"""PyTorch's tensors in memory of the CPU: each storage once, without a copy, with all its views.

torch pickles a storage into the stream, again for each tensor on it, and leaves gradients out. Here
its bytes are an array, which numpy hands out as a buffer; tensors on it, and arrays made by
``tensor.numpy()``, are views of it, and see each other's changes after loading too.

As in torch's own pickles, the graph of autograd is left out: what was computed comes back as a
value. An array given to ``torch.from_numpy`` and the tensor come back apart. What lies elsewhere
(GPU, sparse, quantized, subclasses, with hooks) is pickled by torch.

Threads: the one that pickles.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from . import portable


class Storages:
    """The storages of one pickle."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], _Storage] = {}

    def reduce(self, tensor: Any) -> Any:
        """Return what a pickle is to hold of a tensor."""
        if not is_plain(tensor):
            return NotImplemented
        parameter = type(tensor) is sys.modules["torch"].nn.Parameter
        how = tensor.dtype, tensor.storage_offset(), (*tensor.shape,), tensor.stride()
        args = self._storage(tensor), *how, tensor.requires_grad, parameter
        grad = tensor.grad if tensor.is_leaf else None
        state = (dict(vars(tensor)), grad) if vars(tensor) or grad is not None else None
        return portable.make_tensor, args, state, None, None, portable.set_tensor_state

    def reduce_array(self, array: Any) -> Any:
        """Return what a pickle is to hold of an array on a tensor's memory; None if it is not."""
        tensor = tensor_under(array)
        span = None if tensor is None else storage_span(tensor)
        start = array.__array_interface__["data"][0]
        if span is None or not span[0] <= start <= span[1]:
            return None
        how = start - span[0], array.shape, array.strides, array.dtype
        return portable.make_array_of_storage, (self._storage(tensor), *how)

    def _storage(self, tensor: Any) -> _Storage:
        storage = tensor.untyped_storage()
        # Two of one array are one, those of parts of it are not. Empty ones have no address.
        key = storage.data_ptr() if storage.nbytes() else storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = _Storage(storage)
        return self._known[key]


class _Storage:
    """Stands in a pickle for a storage."""

    def __init__(self, storage: Any) -> None:
        self._kept = storage
        self.array = _bytes_of(storage)

    def __reduce__(self) -> tuple[Any, ...]:
        return portable.make_storage, (self.array,)


def tensor_under(array: Any) -> Any:
    """Return the tensor whose memory an array has; None if it has its own, or another's."""
    base = array.base
    while isinstance(base, sys.modules["numpy"].ndarray):
        base = base.base
    # Not there yet, for code that runs while torch is imported.
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return base if base is not None and kind is not None and isinstance(base, kind) else None


def is_plain(tensor: Any) -> bool:
    """Tell whether a tensor is bytes in memory of the CPU, and a way to read them."""
    torch = sys.modules["torch"]
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and "numpy" in sys.modules
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.is_nested)
        and not (tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None))
    )


def storage_span(tensor: Any) -> tuple[int, int] | None:
    """Return the addresses between which a tensor's storage is; None if it is nowhere."""
    if not is_plain(tensor):
        return None
    storage = tensor.untyped_storage()
    start: int = storage.data_ptr()
    return (start, start + storage.nbytes()) if storage.nbytes() else None


def _bytes_of(storage: Any) -> Any:
    # tensor.numpy() would mark the storage: it could not be resized any more.
    numpy = sys.modules["numpy"]
    if not storage.nbytes():
        return numpy.empty(0, "u1")
    start, size = storage.data_ptr(), storage.nbytes()
    array = numpy.frombuffer((ctypes.c_ubyte * size).from_address(start), "u1")
    if not storage.resizable():  # another's memory, such as a file that is mapped to be read
        array.flags.writeable = _is_writable(start, start + size)
    return array


def _is_writable(start: int, stop: int) -> bool:
    """Tell whether memory can be written to; False where the system does not tell."""
    try:
        with open("/proc/self/maps") as file:
            lines = [line.split(maxsplit=2)[:2] for line in file]
    except OSError:
        return False
    for span, rights in lines:
        low, high = (int(address, 16) for address in span.split("-"))
        if low < stop and start < high and "w" not in rights:
            return False
    return True
