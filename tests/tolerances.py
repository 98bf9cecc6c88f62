"""How far a kernel's result may be from the definition in float64, and why: every bound.

The definition sees the inputs as rounded to the type, so what a bound allows for is what happens
after that. The bits of a mantissa: float16 10, TF32 10, bfloat16 7, float32 23.
"""

import torch

# Of a CPU kernel's tensor, relative to its largest value. Measured with 12 seeds on the shapes of
# the operators' tests, portable and AVX2: at most 2e-15, 1.3e-6, 3.8e-3 (the rounding of the
# result, 2^-9, twice) and 4.8e-4 (2^-12, twice), but for single sums that cancel. AVX512-BF16
# and AMX round the samples as well, which the bound of bfloat16 leaves room for.
CPU = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}

# Of a tensor from tensor cores, emulated or on a device, relative to the larger of the exact value
# and the RMS of all exact values: the rounding of samples and of the result to the type's mantissa,
# summed over C*K terms. Three products in TF32 are as good as float32.
MATRIX = {"float16": 6e-3, "bfloat16": 5e-2, "tf32": 1e-2, "float32": 2e-5, "tf32x3": 2e-5}
DEVICE = {torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 6e-3}

# hna_loss. Of the value, relative: a few units in the last place of a float32 sum over blocks; a
# device's own exponential and logarithm add some.
LOSS, DEVICE_LOSS = 2e-6, 1e-5
# Of the gradient, relative to its largest value: the rounding of the result to the type. In float32
# elementwise, where no cell is close to the clamp.
LOSS_GRADIENT = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
PLAIN_GRADIENT = {"rtol": 1e-5, "atol": 1e-6}

# draw_heatmaps, whose values are at most 1: two float32 exponentials and their product. Emulated,
# the exponential is the host's, so small values are right relatively, too; exponents of windows as
# large as the map or far larger are rounded first.
HEATMAP = 1e-6
EMULATED_HEATMAP = {"rtol": 1e-6, "atol": 1e-12}
LARGE_HEATMAP = {"rtol": 1e-5, "atol": 1e-12}
DEVICE_HEATMAP = {"rtol": 1e-5, "atol": 1e-7}

# Scores of topk_peaks, relative: one float32 sigmoid, of the host or of a device.
SCORE, DEVICE_SCORE = 1e-6, 1e-5

# Triplets of decode_hoi: products of three scores, and boxes of some dozen cells in float32.
TRIPLETS = {torch.float32: 1e-5, torch.float64: 1e-12}
DEVICE_TRIPLETS = {"rtol": 1e-4, "atol": 1e-7}

# A compiled graph around the operators: torch fuses and reorders the rest of it.
COMPILED = {"rtol": 1e-5, "atol": 1e-6}

# TF32 against float32 on a device: the products of C*K = 1600 terms with 10 bits each, absolutely
# as the sums cancel.
TF32 = {"rtol": 2e-2, "atol": 2e-1}

# A layer or network in float32 against a definition whose sums have another order; on a device,
# cuDNN's convolutions too.
NETWORK = {"rtol": 1e-4, "atol": 1e-5}
DEVICE_NETWORK = {"rtol": 1e-3, "atol": 1e-3}
# Two float32 runs of a network of some dozen deformable layers, gradients included, relative to a
# tensor's largest value: each layer reads the next at positions that differ by rounding.
DEFORMABLE_NETWORK = 1e-3

# Terms of the training loss: a sum over all cells in float32, against one written naively.
TERMS = {"rtol": 1e-4, "atol": 1e-4}
# The total under bfloat16 autocast, relative: logits with 8 significant bits.
AUTOCAST_LOSS = 2e-2
