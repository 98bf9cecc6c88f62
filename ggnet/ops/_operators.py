"""The operators, and the names under which the compiled library registers each with torch."""

# Operator -> its schema and those that its backward calls.
SCHEMAS = {
    "actpoint_aggregate": ("actpoint_aggregate", "actpoint_aggregate_backward"),
    "deform_conv2d": ("deform_conv2d", "deform_conv2d_backward"),
    "hna_loss": ("hna_loss", "hna_loss_gradient", "hna_loss_backward", "hna_loss_backward_"),
    "draw_heatmaps": ("draw_heatmaps",),
    "topk_peaks": ("topk_peaks",),
    "match_points": ("match_points",),
}
OPERATORS = tuple(SCHEMAS)
QUERIES = ("actpoint_kernels",)  # what ggnet.ops asks the library; they compute nothing
