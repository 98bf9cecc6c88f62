"""The command line: what a user types, sees and gets."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ggnet import __version__
from ggnet.cli import main
from ggnet.data.sources import SOURCES
from ggnet.engine.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from ggnet.engine.evaluation import PREDICTIONS
from ggnet.eval.report import METRICS


@pytest.fixture
def ggnet(capsys):
    """Run a command; its status, and what it printed on stdout and stderr."""

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # argparse
            status = exit_.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert main(["train", "--out", str(folder), *quick, "train.epochs=1"]) == 0
    return folder


def test_help_is_quick_and_lists_the_commands(ggnet):
    status, output, _ = ggnet("--help")
    assert status == 0
    for command in ("demo", "train", "eval", "predict", "data", "env"):
        assert f"\n    {command} " in output
    script = "import sys; from ggnet import cli; cli.build_parser(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not {"torch", "numpy", "pydantic", "rich"} & set(result.stdout.split())


@pytest.mark.parametrize(
    ("package", "expected"), [("torch", "pip install torch"), ("PIL", "has no package PIL")]
)
def test_a_missing_package_is_named(package, expected):
    script = f"""
import sys
sys.modules["{package}"] = None
from ggnet.cli import main
raise SystemExit(main(["predict", "a.jpg", "--checkpoint", "b.pt"]))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 2
    assert expected in result.stderr
    assert sys.executable in result.stderr
    assert "Traceback" not in result.stderr


def test_convert_help_names_every_source(ggnet):
    _, output, _ = ggnet("data", "convert", "--help")
    assert all(source in output for source in SOURCES)


def test_version(ggnet):
    assert ggnet("--version")[:2] == (0, f"ggnet {__version__}\n")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["train", "train.epocs=3"], "unknown key 'train.epocs'; did you mean 'train.epochs'?"),
        (["train", "--config", "dmo"], "no preset 'dmo'; did you mean 'demo'?"),
        (["train", "data.root=nowhere"], "nowhere is not a dataset"),
        (["train", "--resume", "nowhere"], "no run folder or checkpoint at nowhere"),
        (["train", "--resume", "a", "--out", "b"], "leave out --out"),
        (["eval"], "give either a run folder or checkpoint, or --predictions"),
        (["eval", "nowhere"], "no run folder or checkpoint at nowhere"),
        (["eval", "--predictions", "none.json", "data.root=nowhere"], "nowhere is not a dataset"),
        (["predict", "none.jpg", "--checkpoint", "x"], "no image or folder at none.jpg"),
        (["data", "verify", "nowhere"], "nowhere is not a dataset"),
        (["data", "generate", "--train", "0"], "train is 0; expected at least 1"),
        (["data", "convert", "hoco", "out"], "unknown source 'hoco'"),
    ],
)
def test_errors_have_no_traceback(ggnet, tmp_path, monkeypatch, command, expected):
    monkeypatch.chdir(tmp_path)
    status, output, errors = ggnet(*command)
    assert status == 2
    assert errors.startswith("error: ")
    assert expected in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    "command", [["train", "--epochs", "3"], ["frobnicate"], [], ["env", "a.b=1"], ["predict", "x"]]
)
def test_unknown_arguments_are_refused(ggnet, command):
    status, _, errors = ggnet(*command)
    assert status == 2
    assert "usage: ggnet" in errors


def test_overrides_stand_before_and_after_options(ggnet):
    status, output, _ = ggnet(
        "train",
        "train.epochs=7",
        "--config",
        "demo",
        "train.lr=0.5",
        "--print-config",
        "model.apm=0",
    )
    assert status == 0
    assert "  epochs: 7" in output
    assert "  lr: 0.5" in output
    assert "  apm: false" in output


def test_error_of_another_process_than_the_first_is_said(ggnet, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert ggnet("train", "a.b=1")[2].startswith("error: configuration is not valid")


def test_train_leaves_a_complete_folder(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.yaml",
        LAST,
        BEST,
        "results.csv",
        "curves.png",
        METRICS,
        PREDICTIONS,
        "ap_per_class.csv",
        "ap_per_hoi.png",
        "precision_recall.png",
    }


def test_config_of_a_run_makes_the_same_run(ggnet, run):
    status, output, _ = ggnet("train", "--print-config", "--config", run / "config.yaml")
    assert status == 0
    assert "  epochs: 1\n" in output
    assert "  width: 16  #" in output


def test_eval_repeats_the_metrics_of_training(ggnet, run, tmp_path):
    status, output, _ = ggnet("eval", run, "--out", tmp_path)
    assert status == 0
    assert "AP of each HOI" not in output
    assert output.index("best-scored detections by cause") < output.index("HICO mAP")
    assert (tmp_path / METRICS).read_text() == (run / METRICS).read_text()
    assert (tmp_path / PREDICTIONS).read_text() == (run / PREDICTIONS).read_text()


def test_eval_shows_every_class_on_request_and_json_alone(ggnet, run, tmp_path):
    _, output, _ = ggnet("eval", run, "--out", tmp_path, "--classes")
    assert output.index("AP of each HOI") < output.index("HICO mAP")
    status, output, _ = ggnet("eval", run, "--out", tmp_path, "--json")
    assert status == 0
    assert json.loads(output) == json.loads((run / METRICS).read_text())


def test_eval_from_another_folder_finds_the_data_beside_the_run(
    ggnet, run, quick, tmp_path, monkeypatch
):
    """A relative data.root was meant from where the training ran."""
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    shutil.copytree(run, home / "runs" / "one")
    root = Path(quick[0].removeprefix("data.root="))
    (home / "scenes").symlink_to(root, target_is_directory=True)
    state = load_checkpoint(run / BEST)
    state["config"]["data"]["root"] = "scenes"
    save_checkpoint(home / "runs" / "one" / BEST, state)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, output, errors = ggnet("eval", home / "runs" / "one")
    assert status == 0, errors
    assert f"no scenes here; using the one beside the run, {home / 'scenes'}" in errors
    (home / "scenes").unlink()
    status, _, errors = ggnet("eval", home / "runs" / "one")
    assert (status, "scenes is not a dataset" in errors) == (2, True)


def test_eval_of_a_prediction_file(ggnet, run, quick, tmp_path):
    root = quick[0]
    status, _, _ = ggnet("eval", "--predictions", run / PREDICTIONS, root, "--out", tmp_path)
    assert status == 0
    theirs = json.loads((run / METRICS).read_text())
    del theirs["object_detection"]  # the file has no boxes but those of triplets
    assert json.loads((tmp_path / METRICS).read_text()) == theirs


def test_eval_with_other_settings(ggnet, run, tmp_path):
    status, _, _ = ggnet("eval", run / BEST, "--out", tmp_path, "eval.k=5")
    assert status == 0
    images = json.loads((tmp_path / PREDICTIONS).read_text())["images"]
    assert max(len(image["interactions"]) for image in images) <= 5
    status, _, errors = ggnet("eval", run, "model.gaze_steps=1")
    assert status == 2
    assert "model.gaze_steps: 2 there, 1 asked for" in errors


def test_eval_on_another_vocabulary(ggnet, run, scenes, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(scenes, other)
    description = json.loads((other / "dataset.json").read_text())
    name = description["verbs"][2]["name"]
    description["verbs"][2]["name"] = "juggle"
    (other / "dataset.json").write_text(json.dumps(description))
    status, _, errors = ggnet("eval", run, f"data.root={other}")
    assert status == 2
    assert "has other verbs" in errors
    assert f"first difference at 2: 'juggle' and '{name}'" in errors


def test_truncated_checkpoint(ggnet, run, tmp_path):
    (tmp_path / LAST).write_bytes((run / LAST).read_bytes()[:3000])
    for command in (["eval", tmp_path], ["train", "--resume", tmp_path]):
        status, _, errors = ggnet(*command)
        assert status == 2
        assert f"error: {tmp_path / LAST} cannot be read as a checkpoint" in errors


def test_corrupt_training_image_is_named(ggnet, quick, scenes, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(scenes, broken)
    image = sorted((broken / "images" / "train").iterdir())[3]
    image.write_bytes(image.read_bytes()[:200])
    status, _, errors = ggnet(
        "train", "--out", tmp_path / "run", *quick, f"data.root={broken}", "data.workers=1"
    )
    assert status == 2
    assert str(image) in errors
    assert "Traceback" not in errors
    status, output, _ = ggnet("data", "verify", broken)
    assert status == 1
    assert "unreadable image" in output


def test_predict(ggnet, run, scenes, tmp_path):
    image = sorted((scenes / "images" / "test").iterdir())[0]
    out = tmp_path / "out"
    status, _, _ = ggnet(
        "predict", image, "--checkpoint", run, "--out", out, "--actpoints", "--threshold", "0"
    )
    assert status == 0
    assert (out / f"{image.stem}.png").exists()
    assert (out / "gaze" / f"{image.stem}.png").exists()
    assert json.loads((out / PREDICTIONS).read_text())["images"]


def test_verify_names_every_broken_record(ggnet, scenes, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(scenes, root)
    entries = json.loads((root / "train.json").read_text())
    for entry in entries:
        entry["annotations"][0]["category_id"] = 99
    (root / "train.json").write_text(json.dumps(entries))
    command = ["data", "verify", root, "--no-images"]
    status, output, _ = ggnet(*command)
    assert status == 1
    assert f"and {len(entries) - 10} more: unknown object id" in output
    assert "--all names every record" in output
    status, output, _ = ggnet(*command, "--all")
    assert status == 1
    assert all(entry["file_name"] in output for entry in entries)


def test_data_commands(ggnet, tmp_path):
    root = tmp_path / "scenes"
    status, output, _ = ggnet("data", "generate", root, "--train", 3, "--test", 2)
    assert status == 0
    assert f"3 training and 2 test images in {root}" in output
    status, output, _ = ggnet("data", "verify", root)
    assert status == 0
    assert "no problems" in output
    status, output, _ = ggnet("data", "stats", root, "--out", tmp_path / "frequencies.png")
    assert status == 0
    assert "images" in output
    assert (tmp_path / "frequencies.png").exists()


def test_env(ggnet):
    status, output, _ = ggnet("env")
    assert status == 0
    assert __version__ in output
    assert "actpoint_aggregate" in output


def test_env_as_json(ggnet):
    status, output, _ = ggnet("env", "--json")
    found = json.loads(output)
    assert status == 0
    assert found["usable"] is True
    assert found["ggnet"]["version"] == __version__
    assert found["torch"]["version"].startswith(version("torch").split("+")[0])
    assert found["packages"]["numpy"] == version("numpy")
    assert found["operators"]["deform_conv2d"]["cpu"]["backend"] == "cpu"
    assert "tensor is on cpu" in found["operators"]["deform_conv2d"]["cpu"]["rejected"]["cuda"]


def test_env_tells_what_the_tests_have_not_been_run_with(ggnet, monkeypatch):
    from ggnet import environment

    assert not json.loads(ggnet("env", "--json")[1])["untested"]
    assert "not tested" not in ggnet("env")[1]
    monkeypatch.setattr(environment.torch, "__version__", "2.99.1+cpu")
    monkeypatch.setattr(environment.platform, "python_version", lambda: "3.1.4")
    found = json.loads(ggnet("env", "--json")[1])["untested"]
    assert found == {"Python": "3.1.4", "torch": "2.99.1+cpu"}
    output = " ".join(ggnet("env")[1].replace("│", "").split())
    assert "not tested Python 3.1.4; tests have been run with 3.11, " in output


def test_the_page_says_how_each_release_was_tested():
    """Its table, and the list that `ggnet env` reads."""
    from ggnet.environment import TESTED

    page = (Path(__file__).parents[1] / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (Python|torch|triton) (\d+\.\d+)\.\d+ \| ", page, re.MULTILINE)
    assert sorted(rows) == sorted((name, v) for name in TESTED for v in TESTED[name])


@pytest.mark.parametrize("failure", ["ImportError('no torch')", "OSError('no libtorch.so')"])
def test_env_without_a_usable_torch(tmp_path, failure):
    (tmp_path / "torch.py").write_text(f"raise {failure}")
    script = "import sys; from ggnet.cli import main; raise SystemExit(main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for options in ([], ["--json"]):
        command = [sys.executable, "-c", script, "env", *options]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 2
        assert not result.stderr
        if options:
            found = json.loads(result.stdout)
            assert (found["usable"], found["torch"], found["gpus"]) == (False, None, [])
            assert found["problem"].startswith("torch cannot be imported (no ")
        else:
            assert "not usable: torch cannot be imported (no " in result.stdout
            assert "C++ compiler" in result.stdout
