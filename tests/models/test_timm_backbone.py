"""timm's networks as backbones: what they declare, trained, saved, exported, and what is refused.

Weights are random or made here: nothing is downloaded. Where timm is not installed all but its
absence is skipped; `make test-timm` has it.
"""

import importlib
import re
import sys

import numpy as np
import pytest
import torch
from samples import save_untrained

import ggnet
from ggnet.cli import main
from ggnet.config import Config, LossConfig, ModelConfig, load_config
from ggnet.data.preprocess import normalize_bytes
from ggnet.engine.checkpoint import LAST, open_checkpoint
from ggnet.errors import UserError
from ggnet.export import EXPORTERS
from ggnet.export.run import export
from ggnet.models import backbone_class, build_model
from ggnet.nn import GGNetLoss

SMALL = "timm:test_resnet"  # which timm has for tests
WITHOUT_OPERATORS = ("nms", "qnms")  # of torchvision, registered when it is imported


@pytest.fixture(scope="session")
def timm():
    """The package. PyPI's torchvision, which it imports, finds its operators in torch for CUDA
    alone; beside another torch it wants to be told that they exist, and timm calls none."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    except RuntimeError:
        for name in WITHOUT_OPERATORS:
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
    return pytest.importorskip("timm")


@pytest.fixture
def offline(timm, tmp_path, monkeypatch):
    """The cache of the Hugging Face hub, empty, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(None, [f"model.backbone={name}"])
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "multiple"),
    [
        ("resnet18", 32),
        ("resnet50.a1_in1k", 32),
        ("convnext_atto", 32),
        ("tf_efficientnetv2_b0", 32),
        ("vgg11", 32),
        ("hrnet_w18_small", 32),
        ("cspdarknet53", 32),
        ("halonet26t", 256),
    ],
)
def test_a_network_is_what_it_declares(timm, name, multiple):
    declared = backbone_class(f"timm:{name}")
    assert (declared.size_multiple, declared.stride) == (multiple, 4)
    with torch.device("meta"):
        model = build_model(ModelConfig(backbone=f"timm:{name}"), 4, 5)
        (features,) = model.backbone(torch.empty(2, 3, 2 * multiple, 3 * multiple))
    assert features.shape == (2, 64, multiple // 2, 3 * multiple // 4)
    assert model.backbone.body.feature_info.reduction() == [4, 8, 16, 32]
    size = f"data.input_size=[{multiple}, {multiple // 2}]"
    with pytest.raises(UserError, match=f"timm:{name} needs multiples of {multiple}"):
        load_config(None, [f"model.backbone=timm:{name}", size])


def test_its_parameters_are_timms_and_those_of_a_light_neck(timm):
    with torch.device("meta"):
        backbone = backbone_class("timm:resnet50")()
        resnet = timm.create_model("resnet50", num_classes=0)
    neck = sum(
        # 1x1 to the width, two nodes with their 27 maps of points, the upsampling by 2
        fine * width + 2 * width
        + sum(9 * c * (width + 27) + 27 + 3 * width for c in (coarse, width))
        + 16 * width
        for fine, coarse, width in ((1024, 2048, 256), (512, 256, 128), (256, 128, 64))
    )  # fmt: skip
    count = sum(p.numel() for p in backbone.parameters())
    assert count == sum(p.numel() for p in resnet.parameters()) + neck


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnetv2_b0"])
def test_images_reach_the_network_with_its_own_normalization(timm, name):
    backbone = backbone_class(f"timm:{name}")()
    seen = []
    backbone.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    backbone(normalize_bytes(pixels, None))
    cfg = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (cfg.mean, cfg.std))
    torch.testing.assert_close(seen[0].double(), (pixels / 255 - mean) / std, rtol=0, atol=2e-6)


def test_every_parameter_learns(timm):
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="timm:convnext_atto", gaze_steps=1), 4, 5)
    (outputs,) = model.train()(torch.randn(2, 3, 64, 64))
    sum(out.square().sum() for out in outputs["interaction"]).backward()
    named = model.backbone.named_parameters()
    assert [name for name, p in named if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["test_resnet", "tiny_vit_11m_224"])  # the second has random depth
def test_recomputing_changes_nothing(timm, name, make_batch):
    batch, results = make_batch(2, 64), []
    for setting in ("none", "all"):
        torch.manual_seed(0)
        config = ModelConfig(backbone=f"timm:{name}", gaze_steps=1, checkpointing=setting)
        model = build_model(config, 4, 5).train()
        loss, _ = GGNetLoss(LossConfig())(model(batch.images), batch)
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append({"loss": loss, **gradients, **dict(model.named_buffers())})
    plain, recomputed = results
    assert [name for name in plain if not torch.equal(plain[name], recomputed[name])] == []


def test_from_training_to_a_folder_for_others(quick, offline, tmp_path, capsys):
    """Trained with an average of the weights, resumed, evaluated, saved, read: never a download."""
    run, settings = tmp_path / "run", [*quick, f"model.backbone={SMALL}", "train.ema=0.9"]
    assert main(["train", "--out", str(run), *settings, "train.epochs=1"]) == 0
    assert main(["train", "--resume", str(run), "train.epochs=2"]) == 0
    assert main(["eval", str(run)]) == 0
    assert f"{SMALL}, " in capsys.readouterr().out
    model = ggnet.load(run)
    image = np.random.default_rng(0).integers(0, 256, (80, 70, 3), dtype=np.uint8)
    [expected] = model(image, threshold=0)
    model.save_pretrained(tmp_path / "folder")
    [found] = ggnet.load(tmp_path / "folder")(image, threshold=0)
    assert [t.score for t in found] == [t.score for t in expected]
    again = tmp_path / "again"
    assert main(["train", "--out", str(again), *settings, f"train.init={run}"]) == 0
    assert "Initial weights" in capsys.readouterr().out
    other = [*quick, "model.backbone=tiny", f"train.init={run}"]
    assert main(["train", "--out", str(tmp_path / "other"), *other]) == 2
    assert "another backbone than tiny" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_it_is_exported(timm, tmp_path, name):
    config = Config()
    config.model.backbone, config.data.input_size = SMALL, (64, 64)
    config.model.gaze_steps = 1
    save_untrained(tmp_path, config)
    checkpoint = open_checkpoint(tmp_path)
    with torch.no_grad():  # scores that differ
        for key, value in checkpoint.state["model"].items():
            if value.is_floating_point() and key.startswith("heads"):
                value.add_(0.05 * torch.randn(value.shape))
    export(checkpoint, name, tmp_path / f"model{EXPORTERS[name].suffix}", batch=2)


def cached(timm, folder, seed: int) -> dict[str, torch.Tensor]:
    """Put random weights into the hub's cache, as a download leaves them."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    weights = timm.create_model("test_resnet").state_dict()
    for value in weights.values():
        if value.is_floating_point():
            value.normal_().abs_()
    revision = "0" * 40
    entry = (
        folder / f"models--{timm.get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--')}"
    )
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(revision)
    (entry / "snapshots" / revision).mkdir(parents=True)
    save_file(weights, entry / "snapshots" / revision / "model.safetensors")
    return weights


def test_pretrained_weights_come_from_the_cache(timm, quick, offline, tmp_path, capsys):
    weights = cached(timm, offline, seed=3)
    settings = [*quick, f"model.backbone={SMALL}", "train.init=timm", "train.epochs=1"]
    out = ["train", "--out", str(tmp_path / "run"), *settings, "train.lr=1e-30", "train.ema=0.5"]
    assert main(out) == 0
    assert "tensors of timm's test_resnet; random: neck and heads" in capsys.readouterr().out
    found = open_checkpoint(tmp_path / "run" / LAST).state
    learned = [n for n in weights if not n.startswith("fc.") and n.endswith((".weight", ".bias"))]
    assert learned
    for state in (found["model"], found["ema"]):
        for name in learned:
            torch.testing.assert_close(state[f"backbone.body.{name}"], weights[name])


def test_without_network_and_cache_the_message_says_so(quick, offline, tmp_path, capsys):
    settings = [*quick, f"model.backbone={SMALL}", "train.init=timm"]
    assert main(["train", "--out", str(tmp_path / "run"), *settings]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"the pretrained weights of {SMALL} are not in timm's cache" in message
    assert "create_model('test_resnet', pretrained=True)" in message


def test_a_network_without_pretrained_weights(timm, offline):
    name = "resnet50t"
    with torch.device("meta"):
        backbone = backbone_class(f"timm:{name}")()
    with pytest.raises(UserError, match=f"timm has no pretrained weights of {name}; leave train"):
        backbone.load_pretrained()


def test_pretrained_weights_are_of_timm_backbones_alone():
    with pytest.raises(UserError, match=r"means the pretrained weights .* the backbone is tiny"):
        load_config(None, ["train.init=timm"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet51", "knows no 'resnet51'; the nearest are resnet"),
        ("resnet18.a9", "no weights 'a9' of resnet18; expected one of resnet18."),
        ("vit_small_patch16_224", "takes images of 224 x 224 pixels alone"),
        ("csatv2", "has features at strides 8, 16, 32, 64; 4, 8, 16, 32 are needed"),
        ("inception_v3", "does not map images .* multiples of 32, .* to features at strides 4"),
        ("mambaout_femto", r"does not map .*\(1, 8, 16, 48\) is not \(1, 48, 8, 16\)"),
    ],
)
def test_what_is_no_backbone_is_named_with_the_reason(timm, name, expected):
    message = refused(f"timm:{name}")
    assert "model.backbone: " in message
    assert re.search(expected, message), message


def test_a_missing_timm_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = refused("timm:convnext_pico")
    assert "need the package timm, which is not installed" in message
    assert "pip install timm (the extra ggnet[timm])" in message


def test_a_timm_that_cannot_be_imported(monkeypatch):
    """As where torchvision is of another torch."""

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "timm":
                raise RuntimeError("operator torchvision::nms does not exist")

    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    message = refused("timm:convnext_pico")
    assert "cannot be imported (RuntimeError: operator torchvision::nms does not exist)" in message
    assert "may not be the one made for this torch" in message
