"""Which of the shared operator tests (tests/ops) Triton's interpreter runs.

It takes milliseconds for every instruction of every program, hence a selection: each operator,
type, option and edge, on the smallest shape that shows it.
"""

import re

import pytest

LONG = "takes the interpreter too long"
# Module: patterns that a name matches from its start.
RUN = {
    "test_actpoint_aggregate": (
        r"test_matches_the_reference\[\((1, 1, 1, 1, 1, 3|0, 4, 3, 6, 6, 3)\)",
        r"test_matches_the_reference\[\(2, 5, 7, 9, 6, 3\)-torch\.(float32|bfloat16)",
        r"test_matches_the_reference\[\(1, 3, 2, 1, 11, 5\)-torch\.(float64|float16)",
        r"test_optional_arguments\[(True-False|False-True)\]",
        r"test_gradients_have_the_memory_format",
        r"test_a_gradient_alone_equals_that_of_all\[[01]\]",
        r"test_nan_in_the_features_reaches_the_output",
        r"test_base_offset_adds_to_the_offsets",
        r"test_errors_name_the_argument",
    ),
    "test_deform_conv2d": (
        r"test_matches_the_reference\[\((1, 1, 1, 3, 3|0, 3, 4, 7, 6)",
        r"test_matches_the_reference\[\(2, 5, 7, 9, 6.*-torch\.float16",
        r"test_matches_the_reference\[\(3, 6, 5, 11, 8.*-torch\.float32",
        r"test_matches_the_reference\[\(2, 4, 3, 9, 9.*-torch\.bfloat16",
        r"test_gradient_of_an_offset_at_an_integer",
        r"test_errors_name_the_argument",
    ),
    "test_hna_loss": (
        r"test_matches_the_reference\[\((1, 1, 1, 1|0, 3, 4, 4|2, 5, 13, 11)\)",
        r"test_any_mixture_of_layouts",
        r"test_(small_gradients|no_positive|gradient|nan|one_cell|backward|batched|the_stored|a_s|autocast)",
        r"test_errors_name_the_argument",
    ),
    "test_draw_heatmaps": (
        r"test_matches_the_reference\[[01]-",
        r"test_(odd|a_gaussian|radius|positives|windows|a_radius|points|errors)",
    ),
    "test_topk_peaks": (
        r"test_(a_plateau|equal_peaks|a_saturated|missing|nan|errors)",
        r"test_views_of_a_larger_tensor\[torch.channels_last",
    ),
    "test_match_points": (
        r"test_matches_the_reference\[torch.float32-\w+-portable",
        r"test_(any_numbers|the_two_rules|ties|only_valid|padding|an_offset|errors|an_unknown)",
    ),
    "test_decode_hoi": (r"test_(one_pair|external_pair|errors)",),
}
OTHER = {
    "test_backend": "what runs without the interpreter",
    "test_torch_integration": "of the compiled operators; Triton's: triton_kernels/test_tracing.py",
}


def choose(items: list[pytest.Item]) -> None:
    """Skip what is not of the selection."""
    for item in items:
        module = item.path.stem
        if module in OTHER:
            item.add_marker(pytest.mark.skip(reason=OTHER[module]))
        elif re.search("instruction_set|any_number_of_threads", item.name):
            item.add_marker(pytest.mark.skip(reason="of the CPU's kernels"))
        elif not any(re.match(pattern, item.name) for pattern in RUN.get(module, ())):
            item.add_marker(pytest.mark.skip(reason=LONG))
