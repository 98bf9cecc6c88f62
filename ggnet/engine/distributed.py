"""One process or many: the same training script under `python` and under `torchrun`."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ggnet.engine.device import choose_device
from ggnet.errors import UserError

# Others wait while the first process computes metrics or writes to a slow disk; a process that
# died is noticed by torchrun, not by this limit.
TIMEOUT = timedelta(hours=1)
TORCHRUN_ECHO_SECONDS = 3.0
LOST_PEER = r"Connection (closed|reset) by peer|Broken pipe|[Rr]emote process has exited"


@dataclass(frozen=True)
class Worker:
    """This process's place in the group, and the few collectives that training needs.

    With one process every collective is the identity, so callers have no second path.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def echo_seconds(self) -> float:
        """How long a repeated signal is torchrun's echo of the terminal's own."""
        return TORCHRUN_ECHO_SECONDS if self.world_size > 1 else 0.0

    def max_(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def sum_(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over the processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in rank order, on every process."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the processes.

        Buffers (batch statistics) are not sent before every step, which would change nothing in
        training; `synchronize_` makes them the main process's wherever they are used.
        """
        if self.world_size == 1:
            return module
        # Gradients lie where they are averaged, not in a second copy.
        return DistributedDataParallel(
            module, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def share_statistics(self, module: nn.Module) -> nn.Module:
        """The module with batch statistics over all processes; see torch.nn.SyncBatchNorm.

        Raises:
            UserError: the processes have no GPUs, where alone that works.
        """
        if self.world_size == 1:
            return module
        if self.device.type != "cuda":
            raise UserError(
                f"train.sync_batchnorm=true needs GPUs, and the device is {self.device}; "
                "expected train.sync_batchnorm=false"
            )
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)

    def averaging(self, wrapped: nn.Module, now: bool) -> AbstractContextManager:
        """While entered, backward passes of what `wrap` gave average gradients only if `now`."""
        return nullcontext() if now or self.world_size == 1 else wrapped.no_sync()

    def synchronize_(self, module: nn.Module) -> None:
        """Give every process the main process's parameters and buffers."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)


@contextmanager
def join_workers(device: str = "auto") -> Iterator[Worker]:
    """Enter the process group that torchrun describes in the environment, or be alone.

    Args:
        device: see `choose_device`. Under torchrun each process takes the GPU of its local rank,
            with NCCL; on CPU it is gloo.

    Raises:
        UserError: a device that this machine does not have.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0)) if world_size > 1 else None
    chosen = choose_device(device, name="train.device", local_rank=local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    worker = Worker(rank, world_size, chosen)
    if world_size == 1:
        yield worker
        return
    # gloo beside nccl: Python objects (names, predictions) travel through the CPU.
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield worker
    except RuntimeError as error:
        if not re.search(LOST_PEER, str(error)):
            raise
        raise UserError("another process of this training has ended; see its message") from error
    finally:
        # gloo's threads take the interpreter's lock to let go of the last collective's tensors,
        # and ending the group waits for them while holding that lock: let them finish first.
        time.sleep(0.2)
        dist.destroy_process_group()


def is_said(message: str) -> bool:
    """Whether another process of this start has said `message` already.

    Asks the store of torchrun's own process, which lives longer than any of them; False for other
    launchers.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    key = f"ggnet/said/{attempt}/{hashlib.sha256(message.encode(errors='replace')).hexdigest()}"
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(key, 1) > 1
    except (KeyError, RuntimeError, ValueError):
        return False
