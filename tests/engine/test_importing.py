"""Published files become checkpoints that predict, or weights that a training starts from."""

import re

import numpy as np
import published
import pytest
import torch
from samples import CUPS

from ggnet.cli import main
from ggnet.config import Config, load_config
from ggnet.data.scenes import generate
from ggnet.data.tables import hico_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import load_checkpoint
from ggnet.engine.importing import import_file, load_initial_weights
from ggnet.engine.inference import Predictor
from ggnet.engine.trainer import train
from ggnet.errors import UserError
from ggnet.models import build_model

DETECTION = {"hm": 80, "wh": 2, "reg": 2}


def save(path, shapes, prefix="module."):
    """As the published code saves; the values are random."""
    weights = published.fill(shapes, dtype=torch.float32)
    state = {prefix + name: value for name, value in weights.items()}
    torch.save({"epoch": 140, "state_dict": state}, path)
    return weights


@pytest.fixture(scope="module")
def centernet(tmp_path_factory):
    """CenterNet's DLA-34: the published file's tensors, and the file that comes out."""
    folder = tmp_path_factory.mktemp("centernet")
    weights = save(folder / "ctdet_coco_dla_2x.pth", published.dla(DETECTION))
    import_file(folder / "ctdet_coco_dla_2x.pth", folder / "init.pt")
    return weights, folder / "init.pt"


def test_a_published_network_predicts(tmp_path, capsys):
    shapes = published.dla(DETECTION | {"hm_rel": 117, "sub_offset": 2, "obj_offset": 2})
    save(tmp_path / "ppdm.pth", shapes)
    assert main(["import", str(tmp_path / "ppdm.pth"), str(tmp_path / "ppdm.pt")]) == 0
    printed = capsys.readouterr().out
    assert "PPDM, DLA-34" in printed
    assert re.search(r"left out \d+ tensors \(--verbose names them\): projection", printed)
    assert "base.level3.project.0.weight" not in printed
    assert "ggnet predict photo.jpg --checkpoint" in printed
    args = ["import", str(tmp_path / "ppdm.pth"), str(tmp_path / "again.pt"), "--verbose"]
    assert main(args) == 0
    assert "left out base.level3.project.0.weight: projection" in capsys.readouterr().out
    run = Predictor.from_checkpoint(tmp_path / "ppdm.pt", torch.device("cpu"))
    assert run.vocabulary == hico_vocabulary()
    assert run.config.data.input_size == (512, 512)
    assert run.config.data.compat == "original"
    assert run.config.eval.allow_same
    run.config.data.input_size = (64, 64)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    [found] = run(*run.prepare([image]))
    assert len(found)


def test_initial_weights_for_the_same_objects(centernet):
    weights, path = centernet
    config, vocabulary = Config().model, hico_vocabulary()
    config.backbone = "dla34"
    model = build_model(config, 80, 117)
    text = load_initial_weights(model, path, config, vocabulary)
    state = model.state_dict()
    assert torch.equal(state["heads.0.heatmap.2.weight"], weights["hm.2.weight"])
    assert torch.equal(
        state["backbone.fuse.project.1.0.conv_offset.bias"],
        weights["ida_up.proj_2.conv.conv_offset_mask.bias"],
    )
    assert "random: heads.interaction_feature, heads.human_offset" in text
    assert "heads.heatmap" not in text
    assert "not used" not in text


def test_a_head_for_other_objects_stays_random(centernet):
    weights, path = centernet
    config = Config().model
    config.backbone = "dla34"
    same_number = Vocabulary(
        "other", tuple(f"thing {i}" for i in range(80)), tuple(range(80)), ("do",), (0,), ((0, 1),)
    )
    for vocabulary in (CUPS, same_number):
        model = build_model(config, len(vocabulary.objects), len(vocabulary.verbs))
        before = model.state_dict()["heads.0.heatmap.2.weight"].clone()
        text = load_initial_weights(model, path, config, vocabulary)
        state = model.state_dict()
        assert torch.equal(state["heads.0.heatmap.2.weight"], before)
        assert torch.equal(state["heads.0.heatmap.0.weight"], weights["hm.0.weight"])
        assert "not used: heads.heatmap" in text


def test_another_backbone_is_an_error(centernet):
    config = Config().model
    with pytest.raises(UserError, match=r"init\.pt holds another backbone than tiny"):
        load_initial_weights(build_model(config, 3, 3), centernet[1], config, CUPS)


def test_initial_weights_are_no_checkpoint(centernet):
    with pytest.raises(UserError, match=r"not a checkpoint .* initial weights are for train\.init"):
        load_checkpoint(centernet[1])


def test_files_that_cannot_be_imported(tmp_path, centernet):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        import_file(tmp_path / "list.pth", tmp_path / "out.pt")
    torch.save({"a": "text"}, tmp_path / "text.pth")
    with pytest.raises(UserError, match="'a' is a str; expected a tensor"):
        import_file(tmp_path / "text.pth", tmp_path / "out.pt")
    with pytest.raises(UserError, match="is a file of this package already; .*train.init"):
        import_file(centernet[1], tmp_path / "out.pt")
    with pytest.raises(UserError, match="would replace the file that is imported"):
        import_file(centernet[1], centernet[1])
    assert not (tmp_path / "out.pt").exists()


def test_the_vocabulary_must_fit(tmp_path):
    shapes = published.dla(DETECTION | {"hm_rel": 25, "sub_offset": 2, "obj_offset": 2})
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "v.pth")
    with pytest.raises(UserError, match="80 objects and 25 verbs, which is not HICO-DET"):
        import_file(tmp_path / "v.pth", tmp_path / "v.pt")
    generate(tmp_path / "scenes", train=1, test=1, size=96)
    with pytest.raises(UserError, match=r"knows 80 objects and 25 verbs, .*scenes has"):
        import_file(tmp_path / "v.pth", tmp_path / "v.pt", tmp_path / "scenes")


def test_a_training_starts_from_a_checkpoint(tmp_path):
    generate(tmp_path / "scenes", train=4, test=1, size=96)
    settings = [
        f"data.root={tmp_path / 'scenes'}",
        "data.input_size=[96, 96]",
        "data.workers=0",
        "model.width=16",
        "train.epochs=1",
        "train.batch_size=2",
        "train.device=cpu",
        "train.loggers=[]",
    ]
    train(load_config(None, settings), tmp_path / "first")
    first = load_checkpoint(tmp_path / "first" / "last.pt")["model"]
    settings += [f"train.init={tmp_path / 'first'}", "train.lr=1e-30", "train.ema=0.9"]
    train(load_config(None, [*settings, "model.gaze_steps=1"]), tmp_path / "second")
    state = load_checkpoint(tmp_path / "second" / "last.pt")
    for weights in (state["model"], state["ema"]):
        for name in ("backbone.merge.0.weight", "heads.0.heatmap.2.weight"):
            assert torch.equal(weights[name], first[name])
