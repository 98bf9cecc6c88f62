"""torch.compile and torch.export see through the Triton operators to their kernels.

Nothing is launched: the compiler under test stops at the graphs, and returns empty results.
"""

import io
from unittest import mock

import pytest
import torch
from functorch.compile import make_boxed_func
from test_torch_integration import FUNCTIONS, results
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import aot_export_module
from torch._higher_order_ops.triton_kernel_wrap import (
    kernel_side_table,
    triton_kernel_wrapper_functional,
    triton_kernel_wrapper_mutation,
)

from ggnet import kernels, ops
from ggnet.ops import _backends

DEFORM = [["forward_kernel"], ["backward_kernel", "weight_grad_kernel"]]
PEAKS = ["peaks_kernel", "decode_kernel"]
# Kernels of each graph: forward, backward.
KERNELS = {
    "actpoint_aggregate": DEFORM,
    "actpoint_aggregate without the optional": DEFORM,
    "deform_conv2d": DEFORM,
    "deform_conv2d in groups": DEFORM,
    "hna_loss": [["count_kernel", "loss_kernel", "total_kernel"], ["scale_kernel"]],
    "hna_loss of half logits": [["count_kernel", "loss_kernel", "total_kernel"], ["loss_kernel"]],
    "draw_heatmaps": [["scatter_kernel", "decode_kernel"]],
    "topk_peaks": [PEAKS],
    "match_points": [["match_kernel"]],
    "decode_hoi": [[*PEAKS, *PEAKS, *PEAKS, "match_kernel"]],
}
# What torch must know to be written: else it would take the memory for unchanged.
WRITTEN = {
    "forward_kernel": {"out"},
    "backward_kernel": {"grad_features", "grad_points"},
    "weight_grad_kernel": {"partial"},
    "count_kernel": {"counts"},
    "loss_kernel": {"sums", "grad"},
    "total_kernel": {"loss", "positives"},
    "scale_kernel": {"out"},
    "peaks_kernel": {"keys"},
    "match_kernel": {"human", "object_", "out_scores"},
}


@pytest.fixture(autouse=True)
def chosen(device):
    kernels.load()
    with (
        mock.patch.object(_backends.Triton, "why_not", return_value=None),
        ops.use_backend("triton"),
    ):
        torch.compiler.reset()
        yield
    torch.compiler.reset()


def launched(graph: torch.fx.Graph) -> list[tuple[str, set[str]]]:
    """Kernel and written arguments of every launch that the graph shows."""
    wrappers = (triton_kernel_wrapper_functional, triton_kernel_wrapper_mutation)
    found = []
    for node in graph.nodes:
        if node.target in wrappers:
            kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            name = getattr(kernel, "base_fn", None) or kernel.fn
            found.append((name.__name__, set(node.kwargs.get("tensors_to_clone", ()))))
    return found


def opaque(graph: torch.fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if "ggnet" in str(node.target)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_graphs_hold_the_kernels(name):
    graphs = []

    def compiler(module, _):
        graphs.append(module.graph)
        shapes = [o and o.meta["val"] for o in module.graph.output_node().args[0]]

        def run(*_):
            return [
                torch.empty_strided(s.shape, s.stride(), dtype=s.dtype)
                if isinstance(s, Tensor)
                else s
                for s in shapes
            ]

        return make_boxed_func(run)

    function, tensors, differentiable = FUNCTIONS[name]
    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    results(compiled, tensors, differentiable)
    assert [[kernel for kernel, _ in launched(graph)] for graph in graphs] == KERNELS[name]
    written: dict[str, set[str]] = {}  # by all launches: loss_kernel can give one of its results
    for graph in graphs:
        assert not opaque(graph)
        for kernel, arguments in launched(graph):
            assert arguments, kernel
            written.setdefault(kernel, set()).update(arguments)
    for kernel, arguments in written.items():
        assert WRITTEN.get(kernel, set()) <= arguments, kernel


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exported_programs_hold_the_operators_and_give_the_kernels(name):
    function, tensors, _ = FUNCTIONS[name]

    class Module(nn.Module):
        def forward(self, *inputs):
            output = function(*inputs)
            return output if isinstance(output, tuple) else (output,)

    with torch.no_grad():
        program = torch.export.export(Module(), tensors)
        assert opaque(program.graph)
        assert all(target.startswith("ggnet_triton.") for target in opaque(program.graph))
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file)
        # What AOTInductor does first.
        module, _ = aot_export_module(loaded.module(), tensors, trace_joint=False)
    assert [kernel for kernel, _ in launched(module.graph)] == KERNELS[name][0]
    assert not opaque(module.graph)
