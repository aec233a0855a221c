"""Tensors of PyTorch: what shares memory shares it again, and none of it is lost.

Collected where torch is installed (`conftest`): its wheels for Linux bring 5 GB of libraries.
"""

from __future__ import annotations

import pytest

from .harness import Kernel, go_back, start_kernel

MODEL = """\
import torch
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=.1, momentum=.9)
def train():
    optimizer.zero_grad()
    model(torch.ones(3)).sum().backward()
    optimizer.step()
def state():
    of = model.weight, model.bias
    moments = [optimizer.state[p].get('momentum_buffer') for p in of]
    grads = [p.grad for p in of]
    return [None if t is None else t.tolist() for t in (*of, *grads, *moments)]
"""

VIEWS = """\
import torch, numpy as np
a = torch.arange(6.); b = a[2:4]; c = a.view(2, 3).T; n = a.numpy(); held = [a.detach()]
apart = torch.arange(6.); other = torch.arange(6.)
"""
SEEN = "(a.tolist(), b.tolist(), c.tolist(), n.tolist(), held[0].tolist())"


@pytest.mark.parametrize("way", ["undo", "rollback"])
@pytest.mark.parametrize(
    "cell", ["b[0] = 9", "n += 1", "held[0][0] = 9", "held[0].zero_()", "held.append(1); c += 1"]
)
def test_views_are_changed_and_come_back_together(kernel: Kernel, cell: str, way: str) -> None:
    kernel.ok(VIEWS)
    before = kernel.eval(SEEN)
    kernel.ok("get_ipython().keep = a, b, n")
    go_back(kernel, cell, way)
    assert kernel.eval(SEEN) == before
    if "=" in cell and "append" not in cell:  # only bytes differ, and are written where they were
        assert kernel.eval("[x is y for x, y in zip(get_ipython().keep, (a, b, n))]") == (
            "[True, True, True]"
        )
    kernel.ok("a[2] = 5.5")
    assert kernel.eval("(b[0].item(), c[2, 0].item(), n[2], held[0][2].item())") == kernel.eval(
        "(5.5, 5.5, np.float32(5.5), 5.5)"
    )
    kernel.ok("apart[0] = 3")
    assert kernel.eval("other[0].item()") == "0.0"
    assert kernel.eval("get_ipython().kernel.savepoints.timeline.head.changed") == "('apart',)"


@pytest.mark.parametrize("way", ["undo", "rollback"])
def test_training_goes_on_where_it_was(kernel: Kernel, way: str) -> None:
    kernel.ok(MODEL)
    for _ in range(3):
        before = kernel.eval("state()")
        go_back(kernel, "train()", way)
        assert kernel.eval("state()") == before
        assert kernel.eval("optimizer.param_groups[0]['params'][0] is model.weight") == "True"
        kernel.ok("train()")
        assert kernel.eval("state()") != before
    kernel.ok("before = state()")
    go_back(kernel, "optimizer.zero_grad()", way)
    assert kernel.eval("state() == before and model.weight.grad is not None") == "True"


def test_tensors_come_back_in_another_process(tmp_path) -> None:
    options = f"--Savepoints.directory={tmp_path}", "--Savepoints.session=tensors"
    code = f"{MODEL}{VIEWS}half = torch.ones(3, dtype=torch.bfloat16); none = torch.empty(0, 2)"
    look = f"{SEEN}, state(), half.dtype, half.tolist(), none.shape, model.weight.requires_grad"
    with start_kernel(*options) as kernel:
        kernel.ok(code)
        kernel.ok("train(); torch.manual_seed(7); torch.rand(3)")
        before = kernel.eval(look)
        kernel.ok("%checkpoint then")
        drawn = kernel.eval("torch.rand(3).tolist()")
        kernel.client.shutdown()
        kernel.manager.provisioner.process.wait(30)
    with start_kernel(*options) as kernel:
        kernel.ok("%restore then")
        assert kernel.eval(look) == before
        assert kernel.eval("torch.rand(3).tolist()") == drawn
        kernel.ok("a[3] = 7; train(); half.resize_(10); a.resize_(2)")
        assert kernel.eval("(b[1].item(), n[3], half.shape[0])") == "(7.0, np.float32(7.0), 10)"


@pytest.mark.parametrize(
    "tensor",
    [
        "torch.eye(3).to_sparse()",
        "torch.ones(3, dtype=torch.complex64).conj()",
        "torch.quantize_per_tensor(torch.ones(3), .1, 0, torch.quint8)",
        "torch.zeros(2, 3)[:, ::2].expand(4, 2, 2)",
        "torch.tensor(1.5)",
        "torch.nn.Parameter(torch.ones(2), requires_grad=False)",
        "torch.ones(3, requires_grad=True) * 2",
        "torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2))])[0]",
    ],
)
def test_any_tensor_is_what_it_was(kernel: Kernel, tensor: str) -> None:
    kernel.ok(f"import torch\nx = {tensor}; was = repr(x.detach())")
    kernel.ok("x = None")
    kernel.ok("%undo")
    assert kernel.eval("repr(x.detach()) == was") == "True"


def test_one_element_of_a_large_tensor_stores_one_piece(kernel: Kernel) -> None:
    kernel.ok("import torch\nx = torch.zeros(5_000_000)")
    kernel.ok("x[77] = 1")
    head = "get_ipython().kernel.savepoints.timeline.head"
    assert kernel.eval(f"({head}.changed, {head}.stored_bytes < 1.2e6)") == "(('x',), True)"


def test_tensor_that_was_committed_can_be_resized(kernel: Kernel) -> None:
    kernel.ok("import torch\nx = torch.ones(3)")
    go_back(kernel, "x.resize_(20); x[7] = 5", "rollback")
    assert kernel.eval("x.tolist()") == "[1.0, 1.0, 1.0]"
    kernel.ok("x.resize_(20)")
    kernel.ok("%undo")
    assert kernel.eval("x.resize_(3).tolist()") == "[1.0, 1.0, 1.0]"


@pytest.mark.parametrize("way", ["undo", "rollback"])
def test_tensors_of_parts_of_an_array_keep_all_of_it(kernel: Kernel, way: str) -> None:
    kernel.ok("import torch, numpy as np\na = np.random.rand(1000)")
    kernel.ok("x = [torch.from_numpy(a[:800]), torch.from_numpy(a)]; was = [t.tolist() for t in x]")
    go_back(kernel, "x.append(1)", way)
    assert kernel.eval("[t.tolist() for t in x] == was") == "True"


def test_empty_tensors_stay_apart(kernel: Kernel) -> None:
    kernel.ok("import torch\nx = [torch.empty(0), torch.empty(0)]")
    go_back(kernel, "x.append(1)", "rollback")
    kernel.ok("torch.add(torch.ones(2), 1, out=x[0]); torch.add(torch.ones(2), 5, out=x[1])")
    assert kernel.eval("[t.tolist() for t in x]") == "[[2.0, 2.0], [6.0, 6.0]]"


def test_tensor_of_a_file_that_is_mapped_to_be_read_is_not_written_to(kernel: Kernel, tmp_path):
    kernel.ok(
        f"import torch, numpy as np\nwhere = {str(tmp_path / 'data')!r}\n"
        "np.zeros(100_000, 'u1').tofile(where)\n"
        "x = torch.from_numpy(np.memmap(where, mode='r', dtype='u1'))"
    )
    go_back(kernel, "with open(where, 'r+b') as f: _ = f.write(b'abc')\nx[:3]", "rollback")
    assert kernel.eval("x[:3].tolist()") == "[0, 0, 0]"


def test_gradient_of_data_that_was_replaced(kernel: Kernel) -> None:
    kernel.ok("import torch\nx = torch.ones(5, requires_grad=True); x.sum().backward()")
    kernel.ok("x.data = x.data[:3]")
    kernel.ok("x = None")
    kernel.ok("%undo")
    assert kernel.eval("(x.tolist(), x.grad.tolist())") == kernel.eval("([1.0] * 3, [1.0] * 5)")


def test_dict_beside_an_array_of_a_tensor_is_the_object_it_was(kernel: Kernel) -> None:
    kernel.ok("import torch\nt = torch.arange(3.); c = {'t': t}; n = t.numpy(); v = n[1:]")
    kernel.ok("get_ipython().keep = c")
    go_back(kernel, "c['k'] = 1; n[0] = 7", "rollback")
    kernel.ok("t[1] = 4")
    assert kernel.eval("(c is get_ipython().keep, c['t'] is t, n.tolist(), v.tolist())") == (
        "(True, True, [0.0, 4.0, 2.0], [4.0, 2.0])"
    )
