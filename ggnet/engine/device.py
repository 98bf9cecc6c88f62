"""Which device to compute on."""

import torch

from ggnet.errors import UserError


def choose_device(
    setting: str | torch.device = "auto", *, name: str = "device", local_rank: int | None = None
) -> torch.device:
    """The device that a setting means: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".

    Args:
        name: of the setting, for messages.
        local_rank: of one of several processes on this machine, which takes that GPU.

    Raises:
        UserError: no such device on this machine.
    """
    try:
        device = torch.device("cpu" if setting == "auto" else setting)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"{name} is '{setting}'; expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if setting == "auto":
        device = torch.device("cuda" if count else "cpu")
    if device.type == "cpu":
        return device
    if count == 0:
        raise UserError(
            f"{name} is '{setting}', but torch {torch.__version__} sees no GPU. "
            f"Use {name}=cpu, or see `ggnet env`."
        )
    index = device.index or 0 if local_rank is None else local_rank
    if index >= count:
        raise UserError(
            f"GPU {index} was asked for, but there are {count}. Lower --nproc-per-node or {name}."
        )
    return torch.device("cuda", index)
