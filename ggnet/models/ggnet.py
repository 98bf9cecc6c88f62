"""GGNet (Zhong et al., CVPR 2021) and, with its switches off, PPDM (Liao et al., CVPR 2020)."""

from typing import Any

from torch import Tensor, nn

from ggnet.models.backbone import Backbone
from ggnet.models.heads import Heads

Outputs = dict[str, Tensor | list[Tensor]]


class GGNet(nn.Module):
    """A backbone and, for each of its stacks, the heads.

    Args:
        backbone: maps images to feature maps; it says how wide the heads are.
        num_objects: object classes; class 0 is the person.
        num_verbs: verb classes.
        heads: the switches of `ggnet.models.heads.Heads`.

    Example:
        >>> model = build_model(ModelConfig(), num_objects=80, num_verbs=117).eval()
        >>> model(torch.rand(1, 3, 128, 128))["interaction"].shape
        torch.Size([1, 117, 32, 32])
    """

    def __init__(
        self,
        backbone: Backbone,
        num_objects: int,
        num_verbs: int,
        **heads: Any,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(
            Heads(backbone.out_channels, backbone.head_channels, num_objects, num_verbs, **heads)
            for _ in range(backbone.stacks)
        )

    def forward(self, images: Tensor) -> list[Outputs] | Outputs:
        """Run the network.

        Args:
            images: (B, 3, H, W), normalized RGB; H and W multiples of `backbone.size_multiple`.

        Returns:
            In training mode a list with one dict for every stack; in evaluation mode the dict of
            the last stack, of which only what the last verb map needs is computed. In cells of the
            backbone's stride:

            - heatmap (B, num_objects, h, w): logits of object centers
            - size (B, 2, h, w): box width, height in cells
            - center_frac (B, 2, h, w): x, y of the center within its cell
            - interaction: training: list of (B, num_verbs, h, w) logits, glance first, then every
              gaze step; evaluation: the last one alone
            - human_offset, object_offset: interaction cell minus center cell; with APM
              (B, 2 num_verbs, h, w), channels 2v, 2v + 1 = x, y of verb v; without (B, 2, h, w)
            - actpoints (evaluation): for every gaze step (B, 3K, h, w): channels 2k, 2k + 1 =
              (dy, dx) of point k relative to the regular grid, summed over the steps so far; then
              the logits of the weights
            - human_verbs, object_verbs (training, aggregations of Table 3 that read these
              points): (B, num_verbs, h, w) logits of the verbs at the human's, object's center

        Raises:
            ValueError: a side of the images is not a multiple of the backbone's.
        """
        height, width = images.shape[-2:]
        multiple = self.backbone.size_multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"images are {height} x {width}; {type(self.backbone).__name__} needs sides that "
                f"are multiples of {multiple}: pad or resize them"
            )
        features = self.backbone(images)
        if self.training:
            return [heads(feature) for heads, feature in zip(self.heads, features, strict=True)]
        return self.heads[-1](features[-1])

    def set_gaze_cells(self, cells: int | None) -> None:
        """In evaluation mode compute the gaze steps at that many cells of each image, those of the
        highest glance scores, and give all others a score of 0; None: at all.

        In float32 only. Waits for the device, so that no CUDA graph and no export holds it.

        Raises:
            ValueError: there are no gaze steps.
        """
        for heads in self.heads:
            if getattr(heads.verbs, "gaze", None):
                heads.verbs.cells = cells
            elif cells is not None:
                raise ValueError("the network has no gaze steps")

    def glance_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn through the down-weighted glance loss.

        The published code gives them ten times the learning rate. Empty without a gaze step,
        where the glance map is the prediction itself.
        """
        return [
            parameter
            for heads in self.heads
            if getattr(heads.verbs, "gaze", None)
            for module in (heads.interaction_feature, heads.verbs.glance)
            for parameter in module.parameters()
        ]
