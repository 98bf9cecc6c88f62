"""Backbones of the package timm (Wightman, PyTorch Image Models), with a deformable neck.

`model.backbone=timm:NAME` is any of its networks that gives features at strides 4, 8, 16 and 32
for images of more than one size. They are merged from coarse to fine by the nodes with which DLA-34
upsamples, in DLA-34's widths.
"""

import difflib
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from ggnet.data.transforms import MEAN, STD
from ggnet.errors import UserError
from ggnet.models.backbone import Backbone
from ggnet.models.blocks import Aggregate, conv_bn_relu

PREFIX = "timm:"
STRIDES = (4, 8, 16, 32)
WIDTHS = (64, 128, 256)  # at strides 4, 8, 16, as DLA-34's
# What the sides of images may have to be multiples of: the coarsest stride, windows of 7 or 8 cells
MULTIPLES = (32, 64, 128, 224, 256)


class UpStage(nn.Module):
    """A coarser map, upsampled and merged with a finer one, which 1x1 brings to the width."""

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lateral = conv_bn_relu(fine_channels, out_channels, kernel=1)
        self.merge = Aggregate(out_channels, (coarse_channels,), (2,))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, F, 2h, 2w), (B, C, h, w) -> (B, out_channels, 2h, 2w)."""
        return self.merge([self.lateral(fine), coarse])[-1]


class TimmBackbone(Backbone):
    """One feature map at stride 4 with 64 channels; `timm_backbone` makes a subclass a network.

    Images come with this package's normalization and leave for the network with the one that its
    pretrained weights expect, which is part of the state dict.
    """

    out_channels = WIDTHS[0]
    random = True  # stochastic depth, which some have by default
    name: ClassVar[str]  # as timm knows it
    levels: ClassVar[tuple[int, ...]]  # timm's indices of the features at STRIDES
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        self.register_buffer("scale", (torch.tensor(STD) / std)[:, None, None])
        self.register_buffer("shift", ((torch.tensor(MEAN) - mean) / std)[:, None, None])
        self.body = self._body()
        *fine, coarse = self.body.feature_info.channels()
        self.up = nn.ModuleList()  # from coarse to fine
        for channels, width in zip(reversed(fine), reversed(WIDTHS), strict=True):
            self.up.append(UpStage(channels, coarse, width))
            coarse = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, 64, H / 4, W / 4)]."""
        *fine, merged = self.part(self.body, images * self.scale + self.shift)
        for stage in self.up:
            merged = self.part(stage, fine.pop(), merged)
        return [merged]

    def load_pretrained(self) -> str:
        """Give the network timm's pretrained weights, from its cache or the Hugging Face hub.

        Returns:
            What was loaded, for people.

        Raises:
            UserError: there are none, or they are not in the cache and cannot be downloaded.
        """
        name = PREFIX + self.name
        if not _timm().models.get_pretrained_cfg(self.name).has_weights:
            raise UserError(
                f"train.init=timm: timm has no pretrained weights of {self.name}; leave train.init "
                f"out{_others(self.name)}"
            )
        try:
            body = self._body(pretrained=True)
        except Exception as error:  # the hub's client has many kinds, without a common base
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"train.init=timm: the pretrained weights of {name} are not in timm's cache, and "
                f'cannot be downloaded: {reason}. Where there is a network, python -c "import '
                f"timm; timm.create_model('{self.name}', pretrained=True)\" puts them into the "
                "cache, the folder of HF_HOME; or leave train.init out"
            ) from error
        self.body.load_state_dict(body.state_dict())
        return f"{len(body.state_dict())} tensors of timm's {self.name}; random: neck and heads"

    @classmethod
    def _body(cls, pretrained: bool = False) -> nn.Module:
        return _timm().create_model(
            cls.name, pretrained=pretrained, features_only=True, out_indices=cls.levels
        )


@cache
def timm_backbone(name: str) -> type[TimmBackbone]:
    """The backbone on the network that timm calls `name`, with a tag of its weights or without.

    Raises:
        ValueError: timm is not installed or cannot be imported, does not know the name, or the
            network is none for detection; the message says which.
    """
    timm = _timm()
    _check_name(name)
    refusal = f"timm's {name} cannot be a backbone: "
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg.fixed_input_size:
        height, width = cfg.input_size[-2:]
        raise ValueError(
            f"{refusal}it takes images of {height} x {width} pixels alone, for which its positions "
            "or windows are made. Choose one without a fixed size, such as timm:convnext_tiny"
        )
    try:
        with torch.device("meta"):
            info = timm.create_model(name, features_only=True).feature_info
    except Exception as error:  # RuntimeError, AttributeError, AssertionError, ...
        raise ValueError(f"{refusal}it gives no features ({_line(error)})") from None
    levels = dict(zip(info.reduction(), info.out_indices, strict=True))  # of each stride the last
    if not levels.keys() >= set(STRIDES):
        raise ValueError(
            f"{refusal}it has features at strides {', '.join(map(str, sorted(levels)))}; "
            f"{', '.join(map(str, STRIDES))} are needed"
        )
    attributes = {
        "__doc__": f"timm's {name}.",
        "__module__": __name__,
        "name": name,
        "levels": tuple(levels[stride] for stride in STRIDES),
        "mean": cfg.mean,
        "std": cfg.std,
    }
    backbone = type(PREFIX + name, (TimmBackbone,), attributes)
    with torch.device("meta"):
        body = backbone._body().eval()
    failures = list(_failures(body))
    if len(failures) == len(MULTIPLES):
        raise ValueError(
            f"{refusal}it does not map images with sides that are multiples of 32, 64, 128, 224 or "
            f"256 to features at strides 4, 8, 16 and 32 ({failures[0]})"
        )
    backbone.size_multiple = MULTIPLES[len(failures)]
    return backbone


def _failures(body: nn.Module) -> Iterator[str]:
    """What is wrong with each of MULTIPLES before the first that fits."""
    for multiple in MULTIPLES:
        try:
            for height, width in ((multiple, 2 * multiple), (3 * multiple, multiple)):
                found = body(torch.empty(1, 3, height, width, device="meta"))
                for stride, channels, map in zip(
                    STRIDES, body.feature_info.channels(), found, strict=True
                ):
                    expected = (1, channels, height // stride, width // stride)
                    if map.shape != expected:
                        raise ValueError(f"{tuple(map.shape)} is not {expected} at stride {stride}")
        except Exception as error:  # of whatever kind a network answers a size with
            yield f"{height} x {width}: {_line(error)}"
        else:
            return


def _check_name(name: str) -> None:
    timm = _timm()
    architecture, tag = timm.models.split_model_name_tag(name)
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise ValueError(
            f"timm {timm.__version__} knows no '{name}'"
            + (f"; the nearest are {', '.join(near)}" if near else "")
            + ". timm.list_models() lists all"
        )
    if tag and name not in (known := timm.list_models(f"{architecture}.*", pretrained=True)):
        raise ValueError(
            f"timm {timm.__version__} has no weights '{tag}' of {architecture}; expected one of "
            f"{', '.join(known)}"
            if known
            else f"timm {timm.__version__} has no weights of {architecture}; leave '.{tag}' out"
        )


def _others(name: str) -> str:
    """Names with pretrained weights like this one, as the end of a sentence."""
    timm = _timm()
    near = difflib.get_close_matches(name, timm.list_models(pretrained=True), n=3)
    return f", or choose one that has: {', '.join(near)}" if near else ""


def _timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name not in ("timm", "torchvision"):
            raise
        raise ValueError(
            f"backbones of timm need the package {error.name}, which is not installed: "
            "pip install timm (the extra ggnet[timm]), with the torchvision made for this torch"
        ) from None
    except Exception as error:  # torchvision of another torch: RuntimeError, OSError
        raise ValueError(
            f"timm is installed but cannot be imported ({_line(error)}); the release of "
            "torchvision, which it needs, may not be the one made for this torch"
        ) from None
    return timm


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
