"""What a training will take, said after its first steps."""

import resource

import torch

WARM_UP = 3  # steps in which libraries choose their algorithms and the loader's processes start
STEPS, SECONDS = 10, 5.0  # measured at least, both
LONG_WAIT = 0.1  # of the time: then the images bound the training


class Forecast:
    """Measures steps until it can say what an epoch takes and what bounds it; then says it once.

    Args:
        steps_per_epoch, epochs: of the run.
        workers: processes that load images.
    """

    def __init__(self, steps_per_epoch: int, epochs: int, device: torch.device, workers: int):
        self.steps_per_epoch, self.epochs = steps_per_epoch, epochs
        self.device, self.workers = device, workers
        self._seen = 0
        self._seconds = self._waited = 0.0

    def add(self, seconds: float, waited: float, stages: dict[str, float]) -> str | None:
        """A step's seconds, those of them that were spent waiting for images, and the seconds that
        the loader's processes have spent on each stage so far; the line, once it is known."""
        self._seen += 1
        if self._seen <= WARM_UP or self._seconds is None:
            return None
        self._seconds += seconds
        self._waited += waited
        steps = self._seen - WARM_UP
        if steps < STEPS or self._seconds < SECONDS:
            return None
        each, wait = self._seconds / steps, self._waited / self._seconds
        self._seconds = None
        epoch = each * self.steps_per_epoch
        return (
            f"{each:.2g} s a step: {_time(epoch)} an epoch, {_time(epoch * self.epochs)} for all "
            f"{self.epochs} without evaluation; {_memory(self.device)}; {self._bound(wait, stages)}"
        )

    def _bound(self, wait: float, stages: dict[str, float]) -> str:
        if wait < LONG_WAIT:
            return f"the network takes the time, images are waited for {100 * wait:.0f} % of it"
        text = f"images are waited for {100 * wait:.0f} % of the time"
        if stages:
            text += f", {slowest(stages)} takes most of theirs"
        return f"{text}: more data.workers (now {self.workers}) or a faster disk would help"


def slowest(stages: dict[str, float]) -> str:
    """The stage that takes most of the loader's time, and its share."""
    name = max(stages, key=stages.get)
    return f"{name} ({100 * stages[name] / max(sum(stages.values()), 1e-9):.0f} %)"


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of the GPU's memory"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    return f"{peak / 2**20:.1f} GiB of memory"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
