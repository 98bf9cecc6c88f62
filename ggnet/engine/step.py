"""What a training step tells: its losses, and what all processes must agree on."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ggnet.engine.distributed import Worker


@dataclass(frozen=True, eq=False)
class Losses:
    """The total and its terms, possibly summed over steps, on the device."""

    names: tuple[str, ...]  # the total first
    values: Tensor  # (names,) float64

    @classmethod
    def of(cls, total: Tensor, terms: dict[str, Tensor]) -> Self:
        """The losses of one batch, without their graph."""
        values = torch.stack([total.detach(), *terms.values()]).double()
        return cls(("total", *terms), values)

    def __add__(self, other: "Losses") -> "Losses":
        return Losses(self.names, self.values + other.values)

    def __sub__(self, other: "Losses") -> "Losses":
        return Losses(self.names, self.values - other.values)

    def __mul__(self, factor: float) -> "Losses":
        return Losses(self.names, self.values * factor)

    def __truediv__(self, number: float) -> "Losses":
        return Losses(self.names, self.values / number)

    def to_dict(self) -> dict[str, float]:
        """Plain values; on a GPU this waits for the device."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


@dataclass(frozen=True)
class StepOutcome:
    """What a step tells, on the host."""

    not_finite: bool  # the loss or a gradient, in any process: the weights were not changed
    stop: bool  # some process was asked to stop
    save: bool  # a checkpoint is due
    loss_not_finite: bool  # in this process
    losses: dict[str, float]


class StepReport:
    """What a step tells, on its way from the device: `read` waits until it has arrived.

    Processes exchange it here, so all of them read the same, but for their own losses.

    Args:
        where: the step, for messages.
        images: file names of its images.
        losses: of this process.
        gradient_norm: a scalar.
        stop, save: what this process wishes.
    """

    def __init__(
        self,
        worker: Worker,
        where: str,
        images: list[str],
        losses: Losses,
        gradient_norm: Tensor,
        *,
        stop: bool,
        save: bool,
    ):
        self.where, self.images, self._names = where, images, losses.names
        total = losses.values[0]
        loss_not_finite = ~torch.isfinite(total)
        not_finite = loss_not_finite | ~torch.isfinite(gradient_norm)
        wishes = [torch.full_like(total, float(wish)) for wish in (stop, save)]
        shared = worker.max_(torch.stack([not_finite.double(), *wishes]))
        self.not_finite = shared[0].float()  # 0 or 1, on the device
        values = torch.cat([shared, loss_not_finite[None].double(), losses.values])
        self._arrived = None
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        self._values = values

    @property
    def is_late(self) -> bool:
        """Whether the host may go on before the values are there."""
        return self._arrived is not None

    def read(self) -> StepOutcome:
        """Wait for the values."""
        if self._arrived is not None:
            self._arrived.synchronize()
        not_finite, stop, save, loss_not_finite, *losses = self._values.tolist()
        return StepOutcome(
            bool(not_finite),
            bool(stop),
            bool(save),
            bool(loss_not_finite),
            dict(zip(self._names, losses, strict=True)),
        )
