"""GGNet's training loss (Eq. 4 to 7), computed from compact points on the device."""

import torch
from torch import Tensor, nn

from ggnet import ops
from ggnet.config import LossConfig
from ggnet.data.batch import Batch

# Gaussian factors (positive, hard negative) of the glance's and, with target_style="split", of the
# gaze steps' targets: sharper positives, wider hard negatives.
GLANCE_FACTORS = (6.0, 6.0)
GAZE_FACTORS = (8.0, 2.0)


class GGNetLoss(nn.Module):
    """Heatmap losses plus masked L1 losses, over all stacks.

    Nothing here waits for the device, and every output takes part even without any target, so
    that each parameter gets a gradient in every step.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, outs: list[dict], batch: Batch, progress: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare.

        Args:
            outs: for every stack the training outputs of `GGNet`.
            batch: the targets.
            progress: share of the training that is done, for `beta_ramp`.

        Returns:
            The weighted total, and every unweighted term, detached, averaged over the stacks
            (`human_offset` and `object_offset` as `offset_reduction` says): heatmap, glance,
            gaze1, gaze2, ..., size, center_frac, human_offset, object_offset; human_verbs,
            object_verbs where the network has them.
        """
        targets = self._draw(outs[0], batch)
        stacks = [self._terms(out, targets, batch, self._beta(progress)) for out in outs]
        terms = {}
        for name in stacks[0]:
            values = torch.stack([stack[name] for stack in stacks])
            summed = name.endswith("_offset") and self.config.offset_reduction == "sum"
            terms[name] = values.sum() if summed else values.mean()
        weights = self._weights(len(outs[0]["interaction"]))
        total = sum(weights[name] * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}

    def _beta(self, progress: float) -> float:
        ramp = self.config.beta_ramp
        return self.config.beta * (min(progress / ramp, 1.0) if ramp else 1.0)

    def _weights(self, maps: int) -> dict[str, float]:
        config = self.config
        verbs = {_map_name(index): config.gaze_weight for index in range(maps)}
        verbs["glance"] = config.glance_weight
        verbs[_map_name(maps - 1)] = 1.0
        return verbs | {
            "heatmap": 1.0,
            "human_verbs": config.glance_weight,
            "object_verbs": config.glance_weight,
            "size": config.size_weight,
            "center_frac": config.center_weight,
            "human_offset": config.offset_weight,
            "object_offset": config.offset_weight,
        }

    def _draw(self, out: dict, batch: Batch) -> dict[str, Tensor]:
        """The target of every heatmap, one for all stacks."""
        maps = out["interaction"]
        shape = maps[0].shape
        targets = {
            "heatmap": ops.draw_heatmaps(
                batch.objects,
                batch.object_radii,
                torch.ones_like(batch.object_radii),
                out["heatmap"].shape,
            )
        }
        seen_by, split = self.config.hard_negatives, self.config.target_style == "split"
        glance = self._draw_verbs(batch, shape, GLANCE_FACTORS, seen_by != "gaze")
        gaze = glance
        if len(maps) > 1 and (split or seen_by != "all"):
            factors = GAZE_FACTORS if split else GLANCE_FACTORS
            gaze = self._draw_verbs(batch, shape, factors, seen_by != "glance")
        for index in range(len(maps)):
            targets[_map_name(index)] = gaze if index else glance
        for source in ("human", "object"):
            if f"{source}_verbs" in out:
                centers = _centers(batch.interactions, getattr(batch, f"{source}_offsets"))
                radii = batch.interaction_radii
                targets[f"{source}_verbs"] = ops.draw_heatmaps(
                    centers, radii, torch.ones_like(radii), shape
                )
        return targets

    def _draw_verbs(
        self, batch: Batch, shape: torch.Size, factors: tuple[float, float], negatives_too: bool
    ) -> Tensor:
        centers, radii = batch.interactions, batch.interaction_radii
        signs = torch.ones_like(radii)
        if self.config.interaction == "hna" and negatives_too:
            negatives = batch.hard_negatives
            ones = torch.ones_like(negatives[:, 0])
            centers = torch.cat([centers, negatives])
            radii = torch.cat([radii, self.config.hard_negative_radius * ones])
            signs = torch.cat([signs, -ones])
        return ops.draw_heatmaps(
            centers,
            radii,
            signs,
            shape,
            positive_factor=factors[0],
            negative_factor=factors[1],
        )

    def _terms(
        self, out: dict, targets: dict[str, Tensor], batch: Batch, beta: float
    ) -> dict[str, Tensor]:
        logits = {_map_name(index): map_ for index, map_ in enumerate(out["interaction"])}
        logits |= {name: out[name] for name in targets if name in out}
        config = self.config
        terms = {
            name: ops.hna_loss(
                logits[name],
                target,
                alpha=config.alpha,
                beta=beta,
                gamma=config.gamma,
                eps=config.eps,
            )
            for name, target in targets.items()
        }
        zero = torch.zeros_like(batch.objects[:, 1])
        terms["size"] = _l1(out["size"], batch.objects, zero, batch.sizes)
        terms["center_frac"] = _l1(out["center_frac"], batch.objects, zero, batch.centers_frac)
        for name, target in (
            ("human_offset", batch.human_offsets),
            ("object_offset", batch.object_offsets),
        ):
            verb = batch.interactions[:, 1]
            channel = torch.zeros_like(verb) if out[name].shape[1] == 2 else 2 * verb
            terms[name] = _l1(out[name], batch.interactions, channel, target)
        return terms


def _map_name(index: int) -> str:
    return f"gaze{index}" if index else "glance"


def _centers(interactions: Tensor, offsets: Tensor) -> Tensor:
    """(M, 4) [batch, verb, y, x] of the person or object, `offsets` [x, y] away."""
    return torch.cat([interactions[:, :2], interactions[:, 2:] - offsets.flip(1).int()], dim=1)


def _l1(output: Tensor, points: Tensor, channel: Tensor, target: Tensor) -> Tensor:
    """Mean |output - target| over the two channels from `channel` at every point."""
    batch, _, y, x = points.long().unbind(1)
    channels = torch.stack([channel, channel + 1], dim=1).long()
    values = output[batch[:, None], channels, y[:, None], x[:, None]].float()
    return (values - target).abs().sum() / (target.numel() + 1e-4)
