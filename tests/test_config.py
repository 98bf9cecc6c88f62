"""The configuration: strict, and its errors lead to the right key."""

import pytest
import yaml

from ggnet.config import PRESETS, Config, DemoConfig, describe, load_config, override
from ggnet.errors import UserError


def test_override_beats_file_beats_default(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("train:\n  epochs: 7\n  lr: 0.5\nmodel:\n")  # an empty section is fine
    config = load_config(file, ["train.lr=1e-3", "data.input_size=[64, 96]", "model.apm=no"])
    assert (config.train.epochs, config.train.lr) == (7, 1e-3)
    assert config.data.input_size == (64, 96)
    assert config.model.apm is False
    assert config.loss == Config().loss


def test_override_leaves_its_argument_alone():
    config = Config()
    changed = override(config, ["train.epochs=3"])
    assert (config.train.epochs, changed.train.epochs) == (120, 3)


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_a_preset_sets_what_it_says(preset, caplog):
    config = load_config(preset)
    for section, values in yaml.safe_load((PRESETS / f"{preset}.yaml").read_text()).items():
        for key, value in values.items():
            mine = getattr(getattr(config, section), key)
            assert mine == (tuple(value) if isinstance(value, list) else value)
    assert not caplog.records  # nothing of an older version


def test_description_reads_back(tmp_path):
    config = load_config(None, ["train.lr_steps=[2,3]", "model.aggregation=actpoints"])
    (tmp_path / "all.yaml").write_text(describe(config))
    assert load_config(tmp_path / "all.yaml") == config


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["train.epocs=3"], "unknown key 'train.epocs'; did you mean 'train.epochs'?"),
        (["train.xyz=3"], "unknown key 'train.xyz'; --print-config lists all keys"),
        (["epochs=3"], "unknown key 'epochs'; did you mean 'train.epochs'?"),
        (["modle.apm=true"], "unknown key 'modle.apm'; did you mean 'model.apm'?"),
        (["trian.epochs=3"], "unknown key 'trian.epochs'; did you mean 'train.epochs'?"),
        (["train.epochs=many"], "train.epochs: .*integer.*'many'"),
        (["train.lr=-1"], "train.lr: .*greater than 0.*-1"),
        (["train.clip=-1"], "train.clip: .*greater than 0.*-1"),
        (["train.lr=.nan"], "train.lr: .*finite"),
        (["train.lr_steps=90"], r"train.lr_steps: .*a list \(got 90; the default is \[90, 120\]\)"),
        (["data.input_size=[64]"], r"input_size.1: .*required.*the default is \[128, 128\]"),
        (["model=3"], "model: .*got 3"),
        (["model.backbone=resnet"], "model.backbone: .*'tiny', .*'hourglass104' or 'timm:NAME'"),
        (["train.epochs"], "not of the form section.key=value"),
        (["train.lr_steps=[1"], "not a YAML value"),
        (["train.lr.x=1"], "train.lr: .*number"),
        (["data.input_size=[100,128]"], r"\[100, 128\].*tiny needs multiples of 8"),
        (["model.aggregation=interaction+human"], "needs model.apm=false"),
        (
            ["loss.hard_negatives=gaze", "model.gaze_steps=0"],
            "loss.hard_negatives is gaze.*the model has no gaze step; expected all",
        ),
    ],
)
def test_bad_values_are_explained(items, expected):
    with pytest.raises(UserError, match=expected):
        load_config(None, items)


OLD = {  # as version 0.1 wrote it
    "model": {"actpoints": 9, "width": 16},
    "train": {
        "init": "",
        "clip": 0.0,
        "ema": 0.0,
        "checkpoint_minutes": 0.0,
        "checkpoint_steps": 0,
        "eval_every": 0,
        "epochs": 7,
    },
    "eval": {"points": "double"},
    "scenes": {"train": 2000, "test": 500, "size": 128, "seed": 0},
}


def test_settings_of_the_version_before_are_read_with_a_note(tmp_path, caplog):
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(OLD))
    with caplog.at_level("WARNING", "ggnet"):
        config = load_config(tmp_path / "old.yaml", ["train.lr=0.5"])
    assert (config.model.points_per_step, config.model.width) == (9, 16)
    train = config.train
    assert (train.init, train.clip, train.ema, train.eval_every) == (None,) * 4
    assert (train.checkpoint_minutes, train.checkpoint_steps) == (None, 1)  # each step
    assert (train.epochs, train.lr, config.eval.recall_points) == (7, 0.5, "double")
    [note] = [record.getMessage() for record in caplog.records]
    for text in ("model.actpoints is now model.points_per_step", "train.init='' is now null"):
        assert text in note
    assert "scenes belongs to `ggnet demo`" in note
    caplog.clear()
    assert load_config(None, []) == Config()
    assert not caplog.records  # today's settings need no note


@pytest.mark.parametrize(("old", "now"), [("true", ("tensorboard",)), ("false", ())])
def test_tensorboard_is_one_of_several_loggers(old, now, caplog):
    with caplog.at_level("WARNING", "ggnet"):
        assert load_config(None, [f"train.tensorboard={old}"]).train.loggers == now
    assert f"train.tensorboard={old} is now train.loggers=" in caplog.text
    with pytest.raises(UserError, match=r"train.tensorboard is now in train.loggers; give one"):
        load_config(None, ["train.tensorboard=true", "train.loggers=[]"])
    with pytest.raises(UserError, match=r"(?s)train.loggers.*'tensorboard', 'mlflow' or 'wandb'"):
        load_config(None, ["train.loggers=[aim]"])


def test_a_setting_by_both_of_its_names():
    items = ["model.actpoints=9", "model.points_per_step=25"]
    with pytest.raises(UserError, match="model.actpoints is now model.points_per_step; give one"):
        load_config(None, items)


def test_scenes_are_the_demos_alone():
    assert load_config("demo", ["scenes.train=5"], DemoConfig).scenes.train == 5
    assert not hasattr(load_config("demo"), "scenes")
    with pytest.raises(UserError, match="unknown key 'scenes.trian'; did you mean 'scenes.train'"):
        load_config("demo", ["scenes.trian=5"], DemoConfig)


def test_every_problem_is_listed_at_once():
    with pytest.raises(UserError, match="(?s)train.epochs.*train.lr"):
        load_config(None, ["train.epochs=0", "train.lr=0"])


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("dmo", None, "no preset 'dmo'; did you mean 'demo'?"),
        ("none.yaml", None, "cannot read none.yaml: No such file"),
        ("a.yaml", "train: [", "a.yaml is not valid YAML"),
        ("a.yaml", "- 1", "a.yaml holds a list"),
        ("a.yaml", "train: &a {lr: 1}\nmodel: *a", "aliases .* are not supported"),
        ("a.yaml", "train: " + "[" * 5000, "a.yaml is not valid YAML"),
        ("a.yaml", "train: 2001-99-99", "a.yaml is not valid YAML"),
        ("a.yaml", "train: {lrr: 1}", "a.yaml is not valid:\n.*'train.lrr'.*'train.lr'"),
    ],
)
def test_bad_files_are_explained(tmp_path, monkeypatch, source, text, expected):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / source).write_text(text)
    with pytest.raises(UserError, match=expected):
        load_config(source)
