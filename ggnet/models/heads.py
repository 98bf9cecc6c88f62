"""What GGNet computes from one backbone feature map: detections, verb scores, matching offsets."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggnet import ops
from ggnet.models.checkpointing import Recomputing
from ggnet.models.sparse import Cells
from ggnet.nn import ActPointAggregate
from ggnet.nn.actpoint import points_conv

PRIOR_BIAS = -2.19  # sigmoid: 0.1, so that a fresh heatmap is mostly background
POINT_SOURCES = {
    "interaction+human": ("human",),
    "interaction+object": ("object",),
    "interaction+human+object": ("human", "object"),
}


class Heads(Recomputing):
    """All heads of one stack. In evaluation mode only what the last verb map needs is computed.

    Args:
        in_channels: channels of the backbone's feature map.
        channels: hidden channels of every head (256 in the paper).
        num_objects, num_verbs: classes.
        aggregation, gaze_steps, points_per_step, shared_features, apm: `ggnet.config.ModelConfig`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_objects: int,
        num_verbs: int,
        *,
        aggregation: str,
        gaze_steps: int,
        points_per_step: int,
        shared_features: bool,
        apm: bool,
    ) -> None:
        super().__init__()
        self.apm = apm
        self.heatmap = _scores(_head(in_channels, channels, num_objects))
        self.size = _head(in_channels, channels, 2)
        self.center_frac = _head(in_channels, channels, 2)
        self.interaction_feature = _conv_relu(in_channels, channels)
        offset_source, offset_channels = (channels, 2 * num_verbs) if apm else (in_channels, 2)
        self.human_offset = _head(offset_source, channels, offset_channels)
        self.object_offset = _head(offset_source, channels, offset_channels)

        kernel_size = math.isqrt(points_per_step)
        if aggregation == "actpoints":
            self.verbs = ActPointVerbs(channels, num_verbs, kernel_size)
        elif aggregation in POINT_SOURCES:
            if apm:
                raise ValueError(
                    f"aggregation='{aggregation}' needs apm=False: the features of the human's and "
                    "the object's point are read at one predicted offset, not one for each verb"
                )
            self.verbs = PairVerbs(in_channels, channels, num_verbs, POINT_SOURCES[aggregation])
        else:
            steps = gaze_steps if aggregation == "gaze" else 0
            self.verbs = GazeVerbs(
                in_channels, channels, num_verbs, steps, kernel_size, shared_features
            )

    def forward(self, feature: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """(B, C, h, w) -> the outputs that `GGNet.forward` describes."""
        interaction_feature = self.interaction_feature(feature)
        offset_feature = interaction_feature if self.apm else feature
        outputs = {
            "heatmap": self.part(self.heatmap, feature),
            "size": self.part(self.size, feature),
            "center_frac": self.part(self.center_frac, feature),
            "human_offset": self.part(self.human_offset, offset_feature),
            "object_offset": self.part(self.object_offset, offset_feature),
        }
        return outputs | self.verbs(feature, interaction_feature, outputs)


class GazeVerbs(Recomputing):
    """Glance, then gaze; without gaze steps PPDM's interaction branch.

    Every step refines the previous one's ActPoints: offsets add up, weights are its own.
    """

    cells: int | None = None  # at how many evaluation computes the gaze steps; None: all

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_verbs: int,
        steps: int,
        kernel_size: int,
        shared_features: bool,
    ) -> None:
        super().__init__()
        self.glance = _scores(nn.Conv2d(channels, num_verbs, 1))
        self.shared_features = shared_features and steps > 0
        convs = 1 if self.shared_features else steps
        self.features = nn.ModuleList(_conv_relu(in_channels, channels) for _ in range(convs))
        self.points = nn.ModuleList(points_conv(channels, kernel_size) for _ in range(steps))
        self.aggregate = nn.ModuleList(
            ActPointAggregate(channels, channels, kernel_size, relu=True) for _ in range(steps)
        )
        self.gaze = nn.ModuleList(
            _scores(nn.Conv2d(channels, num_verbs, 1)) for _ in range(steps - 1)
        )
        if steps:
            self.gaze.append(_scores(_narrowing_head(channels, num_verbs)))

    def forward(
        self, feature: Tensor, interaction_feature: Tensor, _: dict
    ) -> dict[str, Tensor | list[Tensor]]:
        """The maps of every step in training; in evaluation the last one and the ActPoints."""
        if not self.training and self.gaze and self.cells and self.cells < feature[0, 0].numel():
            return self._gaze_at_cells(feature, interaction_feature)
        gazed, offset = interaction_feature, None
        if self.shared_features:
            feature = self.features[0](feature)
        maps, actpoints = [], []
        if self.training or not self.gaze:
            maps.append(self.glance(interaction_feature))
        for step, score in enumerate(self.gaze):
            gazed, offset, logits = self.part(self._gaze, step, feature, gazed, offset)
            if self.training or step == len(self.gaze) - 1:
                maps.append(self.part(score, gazed))
            if not self.training:
                actpoints.append(torch.cat([offset, logits], dim=1))
        if self.training:
            return {"interaction": maps}
        return {"interaction": maps[-1], "actpoints": actpoints}

    def _gaze(
        self, step: int, feature: Tensor, gazed: Tensor, offset: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is read at the points of a step; the points' offsets and the logits of weights."""
        if not self.shared_features:
            feature = self.features[step](feature)
        points = self.points[step](gazed)
        gazed = self.aggregate[step](feature, points, offset)
        residual, logits = _split_points(points)
        return gazed, residual if offset is None else offset + residual, logits

    def _gaze_at_cells(
        self, feature: Tensor, interaction_feature: Tensor
    ) -> dict[str, Tensor | list[Tensor]]:
        """As evaluation, at the cells of the highest glance score of any verb.

        Each step reads the points of the one before in a neighbourhood, so the steps before the
        last are computed there, too. Everywhere else the score is 0 and the points are a regular
        grid.
        """
        chosen = [Cells.best(self.glance(interaction_feature).amax(1), self.cells)]
        for points in self.points[1:]:
            chosen.insert(0, chosen[0].around(points.padding[0]))
        gazed, offset, actpoints = interaction_feature, None, []
        if self.shared_features:
            feature = self.features[0](feature)
        for step, cells in enumerate(chosen):
            here = feature if self.shared_features else self.features[step](feature)
            conv, aggregate = self.points[step], self.aggregate[step]
            residual, logits = _split_points(cells.conv(gazed, conv.weight, conv.bias))
            moved = residual if offset is None else cells.take(offset) + residual
            read = cells.conv(here, aggregate.weight, aggregate.bias, moved, logits.sigmoid())
            offset, gazed = cells.put(moved, 0.0), cells.put(read.relu_(), 0.0)
            actpoints.append(torch.cat([offset, cells.put(logits, 0.0)], dim=1))
        scores = chosen[-1].put(self.gaze[-1](read), -torch.inf)
        return {"interaction": scores, "actpoints": actpoints}


class ActPointVerbs(Recomputing):
    """ActPoints without glance and gaze: one aggregation over the interaction branch's own map."""

    def __init__(self, channels: int, num_verbs: int, kernel_size: int) -> None:
        super().__init__()
        self.points = points_conv(channels, kernel_size)
        self.aggregate = ActPointAggregate(channels, channels, kernel_size, relu=True)
        self.score = _scores(_narrowing_head(channels, num_verbs))

    def forward(
        self, feature: Tensor, interaction_feature: Tensor, _: dict
    ) -> dict[str, Tensor | list[Tensor]]:
        """One verb map; in evaluation the ActPoints, too."""
        points = self.points(interaction_feature)
        scores = self.part(self.score, self.aggregate(interaction_feature, points))
        if self.training:
            return {"interaction": [scores]}
        return {"interaction": scores, "actpoints": [points]}


class PairVerbs(nn.Module):
    """Features of the interaction point joined with those of the human's and/or object's point.

    Each point has a branch of its own, taught to tell the verbs at the human's (object's) center.
    The branch is read, bilinearly, where the matching offset says that the center is; the offset
    itself learns from its own loss only.
    """

    def __init__(
        self, in_channels: int, channels: int, num_verbs: int, sources: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {source: _conv_relu(in_channels, channels) for source in sources}
        )
        self.branch_scores = nn.ModuleDict(
            {source: _scores(nn.Conv2d(channels, num_verbs, 1)) for source in sources}
        )
        # A 1x1 convolution of the concatenation, as one term for each of its inputs: the reading
        # at a predicted point is then a deformable convolution with a single tap.
        self.join = nn.Conv2d(channels, channels, 1)
        self.join_sources = nn.ParameterDict(
            {source: nn.Parameter(torch.empty(channels, channels, 1, 1)) for source in sources}
        )
        bound = 1 / math.sqrt((1 + len(sources)) * channels)
        for weight in [self.join.weight, self.join.bias, *self.join_sources.values()]:
            nn.init.uniform_(weight, -bound, bound)
        self.score = _scores(nn.Conv2d(channels, num_verbs, 1))

    def forward(
        self, feature: Tensor, interaction_feature: Tensor, outputs: dict[str, Tensor]
    ) -> dict[str, Tensor | list[Tensor]]:
        """One verb map; in training also the branches' own, `human_verbs` and `object_verbs`."""
        joined = self.join(interaction_feature)
        branch_maps = {}
        for source, conv in self.branches.items():
            branch = conv(feature)
            to_center = -outputs[f"{source}_offset"].detach().flip(1)  # (x, y) -> (dy, dx)
            joined = joined + ops.deform_conv2d(branch, to_center, self.join_sources[source])
            if self.training:
                branch_maps[f"{source}_verbs"] = self.branch_scores[source](branch)
        scores = self.score(F.relu(joined, inplace=True))
        if self.training:
            return {"interaction": [scores]} | branch_maps
        return {"interaction": scores, "actpoints": []}


def _conv_relu(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True))


def _head(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    return _conv_relu(in_channels, channels).append(nn.Conv2d(channels, out_channels, 1))


def _narrowing_head(channels: int, num_verbs: int) -> nn.Sequential:
    """Two 1x1 convolutions whose hidden width is the geometric mean of the outer ones."""
    hidden = int(math.sqrt(channels / num_verbs) * num_verbs)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, num_verbs, 1)
    )


def _scores(head: nn.Module) -> nn.Module:
    """The same head, its last bias set for a heatmap."""
    last = head[-1] if isinstance(head, nn.Sequential) else head
    nn.init.constant_(last.bias, PRIOR_BIAS)
    return head


def _split_points(points: Tensor) -> tuple[Tensor, Tensor]:
    taps = points.shape[1] // 3
    return points[:, : 2 * taps], points[:, 2 * taps :]
