"""Weights that their authors published: where, with which figures, and what they are good for here.

The figures are the authors' own, from the READMEs of GGNet, PPDM and CenterNet and from
torchvision's documentation; none was measured again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ggnet.models.importers import PUBLISHED, PublishedNetwork, weights_size


@dataclass(frozen=True)
class Release:
    """A published file.

    Attributes:
        network: the title of one of PUBLISHED; None: `ggnet import` does not read it.
        trained_on: the dataset, with what else tells it from other files of the network.
        figure: what its authors claim; empty: nothing there.
        file: its name; empty: not known.
        url: where its authors put it.
        verbs: that it knows.
    """

    title: str
    network: str | None
    trained_on: str
    figure: str
    file: str
    url: str
    verbs: int = 117

    @property
    def published(self) -> PublishedNetwork | None:
        """How the file is read."""
        return next((one for one in PUBLISHED if one.title == self.network), None)

    @property
    def use(self) -> str:
        """The commands that take what `ggnet import` makes of it."""
        if self.published is None:
            return "not read"
        return "train.init" if self.published.covers else "predict, eval, train.init"

    @property
    def backbone(self) -> str:
        """The value of model.backbone that goes with it; empty where there is none."""
        return "" if self.published is None else str(self.published.model["backbone"])

    @property
    def megabytes(self) -> float | None:
        """Of the float32 weights that are read, by their shapes."""
        if self.published is None:
            return None
        return weights_size(self.published, self.verbs) / 1e6


_DRIVE = "https://drive.google.com/"
_GGNET = f"{_DRIVE}drive/folders/1Dmb87WH4KG51PQtS6CfQqgxb5v04g5Gn"
_RESNETS = {  # depth -> file, top-1 accuracy
    18: ("resnet18-f37072fd.pth", "69.76 %"),
    34: ("resnet34-b627a593.pth", "73.31 %"),
    50: ("resnet50-0676ba61.pth", "76.13 %"),
    101: ("resnet101-63fe2227.pth", "77.37 %"),
    152: ("resnet152-394f9c45.pth", "78.31 %"),
}


def _ppdm(title: str, network: str | None, map_: str, file: str, place: str) -> Release:
    figure = "mAP {}, rare {}, non-rare {}; Known-Object {}".format(*map_.split())
    return Release(
        f"PPDM, {title}", network, "HICO-DET", figure, f"hoidet_hico_{file}.pth", _DRIVE + place
    )


def _centernet(network: str, name: str, ap: str, id_: str) -> Release:
    title = f"CenterNet detection, {network}"
    where = f"{_DRIVE}file/d/{id_}"
    return Release(title, title, "COCO", f"box AP {ap}", f"ctdet_coco_{name}.pth", where)


RELEASES = (
    Release(
        "GGNet, hourglass-104",
        "GGNet, hourglass-104, one gaze step",
        "HICO-DET",
        "mAP 23.47, rare 16.48, non-rare 25.60; Known-Object 27.36",
        "",
        _GGNET,
    ),
    Release(
        "GGNet, hourglass-104",
        "GGNet, hourglass-104, two gaze steps",
        "V-COCO",
        "role AP 54.7 (scenario 1)",
        "",
        _GGNET,
        verbs=25,
    ),
    _ppdm(
        *("hourglass-104", "PPDM, hourglass-104", "21.92 15.13 23.95 24.25", "hourglass"),
        "open?id=1nw2msm437JVfxme5fbdpIFsyZ46S-jtI",
    ),
    _ppdm(
        *("DLA-34", "PPDM, DLA-34", "19.34 12.21 21.47 21.53", "dla"),
        "open?id=1pNuadiDbHHyAB4kC_II4RKlEOBgKScd6",
    ),
    _ppdm(
        *("ResNet-18", "PPDM, ResNet-18", "14.94 8.83 16.76 16.98", "res18"),
        "file/d/1L2Ns78F0HD5DRMx68KMyZ1L97ulq5Cwn",
    ),
    _ppdm(
        *("DLA-34 of three levels", None, "19.33 11.7 21.61 21.73", "dla_3level"),
        "open?id=1wEZ1wgP9vUfm23lr1_t4V7IufCIi3SoZ",
    ),
    _ppdm(
        *("DLA-34 with GloRe", None, "19.42 13.12 21.3 21.76", "dla_glob"),
        "open?id=15DjWsLR5EA7KejFq6XS4jTkVtJGgRU3M",
    ),
    _ppdm(
        *("DLA-34 with both", None, "19.75 12.38 21.95 22.13", "dla_glob_3level"),
        "open?id=1CaaDAchPKyh4TYjQIycWERCYerdetR1x",
    ),
    _centernet("hourglass-104", "hg", "40.3", "13F904yXltGIqa_K3g3-FLleaNX0n7c9O"),
    _centernet("DLA-34", "dla_2x", "37.4", "18Q3fzzAsha_3Qid6mn4jcIFPeOGUaj1d"),
    _centernet("DLA-34", "dla_1x", "36.3", "1xqFsdA3DANMq1MfnXG8n7nQPe4AfXTHv"),
    _centernet("ResNet-101", "resdcn101", "34.6", "1tKkSyzC3iWmM6XTYNJrC4XLCIToDmnHz"),
    _centernet("ResNet-18", "resdcn18", "28.1", "1RtFps3kQAyLjQyzCao7pPDclOBQ64Vyp"),
    Release(
        *("DLA-34", "DLA-34, ImageNet", "ImageNet", "", "dla34-ba72cf86.pth"),
        "http://dl.yf.io/dla/models/imagenet/dla34-ba72cf86.pth",
    ),
    *(
        Release(
            f"ResNet-{depth}",
            f"ResNet-{depth}, ImageNet",
            "ImageNet",
            f"top-1 accuracy {accuracy}",
            file,
            f"https://download.pytorch.org/models/{file}",
        )
        for depth, (file, accuracy) in _RESNETS.items()
    ),
)


def lines() -> Iterator[str]:
    """What `ggnet import --list` prints."""
    for release in RELEASES:
        title = f"{release.title}, {release.trained_on}"
        if release.megabytes is None:
            yield f"{title}: not read by ggnet import"
        else:
            network = f"{release.megabytes:.0f} MB, model.backbone={release.backbone}"
            yield f"{title}: {release.use} ({network})"
        parts = [release.figure or "no figure there"]
        parts += [release.file] if release.file else []
        yield f"    {'; '.join(parts)}"
        yield f"    {release.url}"
