"""`ggnet ablate`: what it leaves, what it shares, what it survives and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ablate_command import ablate, boxes_of_the_test_images

from ggnet.ablate import ablate as module
from ggnet.ablate import execute, worker
from ggnet.ablate.execute import LOG
from ggnet.ablate.study import DETECTIONS, RESULT, RUNS, STUDY
from ggnet.cli import main
from ggnet.engine.checkpoint import LAST
from ggnet.engine.evaluation import PREDICTIONS, RESULTS
from ggnet.engine.lock import LOCK
from ggnet.engine.signals import INTERRUPTED
from ggnet.engine.trainer import CONFIG
from ggnet.errors import UserError

TWO = ("--rows", "lambda0.1,lambda0.5")


def test_a_table_ends_in_its_files(here, tiny, tmp_path, capsys):
    out = tmp_path / "study"
    assert ablate("table7", out, *TWO, "--seeds", 2, *tiny) == 0
    shown = capsys.readouterr().out
    assert "4 runs to do, 1 at a time: about 4 min" in shown
    assert "4 of 4, about 0 min left" in shown
    assert here == [
        f"table7/lambda{weight}, seed {seed}" for seed in (317, 318) for weight in (0.1, 0.5)
    ]
    found = json.loads((out / "table7.json").read_text())
    scores = {
        name: {seed: run["metrics"]["mAP"] for seed, run in row["runs"].items()}
        for name, row in found["rows"].items()
    }
    assert [list(row) for row in scores.values()] == [["317", "318"]] * 2
    for row in found["rows"].values():
        for seed, run in row["runs"].items():
            settings = yaml.safe_load((out / run["folder"] / CONFIG).read_text())
            assert settings["train"]["seed"] == int(seed)
            assert settings["loss"]["offset_weight"] == row["settings"]["loss.offset_weight"]
    metrics = [json.loads(p.read_text()) for p in out.glob(f"{RUNS}/*/metrics.json")]
    assert sorted(m["mean_ap"]["default"]["full"] for m in metrics) == sorted(
        score for row in scores.values() for score in row.values()
    )
    [compared] = found["comparisons"]
    differences = [scores["lambda0.5"][s] - scores["lambda0.1"][s] for s in ("317", "318")]
    assert compared["mean"] == pytest.approx(sum(differences) / 2)
    assert compared["paper"] == {"V-COCO": pytest.approx(54.01 - 54.72)}
    page = (out / "table7.md").read_text()
    assert "| lambda0.5 | 2 |" in page
    assert "| 54.01 |" in page
    assert "| lambda0.5 | lambda0.1 | 2 |" in page
    assert "6 test images; 3 epochs" in page
    assert (out / "table7.png").stat().st_size > 5000

    assert ablate("table7", out, *TWO, "--seeds", 2, *tiny) == 0  # nothing is left to do
    assert len(here) == 4


def test_tables_share_runs(here, tiny, tmp_path):
    out = tmp_path / "study"
    assert ablate("table7", out, "--rows", "lambda0.1", "--seeds", 2, *tiny) == 0
    assert ablate("table2", out, "--rows", "steps2,steps1,points25", "--seeds", 1, *tiny) == 0
    # steps2 is lambda0.1; steps1 and points25 are one run
    assert here[2:] == ["table2/points25, table2/steps1, seed 317"]
    rows = json.loads((out / "table2.json").read_text())["rows"]
    assert {name: len(row["runs"]) for name, row in rows.items()} == {
        "points25": 1,
        "steps1": 1,
        "steps2": 2,
    }
    assert rows["points25"]["runs"] == rows["steps1"]["runs"]


def test_rows_that_differ_in_their_evaluation_are_trained_once(
    here, trained, tiny, tmp_path, capsys
):
    out = tmp_path / "study"
    rows = ("--rows", "focal,focal-exponent0.5,focal-exponent2.0", "--seeds", 1)
    assert ablate("hna", out, "--rows", "focal", "--seeds", 1, *tiny) == 0
    capsys.readouterr()
    assert ablate("hna", out, *rows, *tiny, "--dry-run") == 0
    assert "2 runs to do, 1 at a time: about 0 min" in capsys.readouterr().out  # 3 seconds each
    assert ablate("hna", out, *rows, *tiny) == 0
    assert len(here) == 3
    assert trained == [1.0]
    found = json.loads((out / "hna.json").read_text())["rows"]
    runs = {name: row["runs"]["317"] for name, row in found.items()}
    assert len({run["seconds"] for run in runs.values()}) == 3  # no training is counted twice
    settings = {
        path.parent.name: yaml.safe_load(path.read_text())["eval"]
        for path in out.glob(f"{RUNS}/*/{CONFIG}")
    }
    assert sorted(x["verb_exponent"] for x in settings.values()) == [0.5, 1.0, 2.0]

    (one,) = (
        p for p in out.glob(f"{RUNS}/*/{RESULT}") if settings[p.parent.name]["verb_exponent"] == 2
    )
    before = json.loads(one.read_text())
    one.unlink()  # as if killed before it
    assert ablate("hna", out, *rows, *tiny) == 0
    after = json.loads(one.read_text())
    assert (after["metrics"], after["errors"]) == (before["metrics"], before["errors"])
    assert trained == [1.0]


def test_rows_with_another_detectors_boxes(here, trained, tiny, scenes, tmp_path, capsys):
    out = tmp_path / "study"
    command = ("table5", out, "--seeds", 1, *tiny, "train.epochs=1")
    assert ablate(*command, "--rows", "ggnet") == 0
    boxes = boxes_of_the_test_images(scenes, tmp_path / "boxes.json")
    rows = ("--rows", "ggnet,ggnet-boxes", "--detections")
    assert ablate(*command, *rows, boxes) == 0
    assert "other boxes" in capsys.readouterr().out
    assert here == ["table5/ggnet, seed 317", "table5/ggnet-boxes, seed 317"]
    assert len(trained) == 1
    found = json.loads((out / "table5.json").read_text())
    assert found["boxes"]["name"] == "boxes.json"
    runs = {name: row["runs"]["317"] for name, row in found["rows"].items()}
    assert list(runs) == ["ggnet", "ggnet-boxes"]
    page = (out / "table5.md").read_text()
    assert f"boxes of boxes.json (SHA-256 {found['boxes']['sha256'][:12]})" in page

    # As `ggnet eval` scores the same checkpoint.
    [last] = {p.parent for p in out.glob(f"{RUNS}/*/{LAST}")} - {
        p.parent for p in out.glob(f"{RUNS}/*/{DETECTIONS}")
    }
    theirs = ["--detections", str(boxes), "--out", str(tmp_path / "eval")]
    assert main(["eval", str(last / LAST), *theirs]) == 0
    score = json.loads((tmp_path / "eval" / "metrics.json").read_text())["mean_ap"]
    assert runs["ggnet-boxes"]["metrics"]["mAP"] == score["default"]["full"]

    # Once more, nothing is left to do; other boxes are another run; the first ones are not lost.
    assert ablate(*command, *rows, boxes) == 0
    assert len(here) == 2
    moved = boxes_of_the_test_images(scenes, tmp_path / "moved.json", moved=9.0)
    assert ablate(*command, *rows, moved) == 0
    assert len(here) == 3
    assert ablate(*command, *rows, boxes) == 0
    assert len(here) == 3
    assert json.loads((out / "table5.json").read_text())["rows"] == found["rows"]
    assert ablate(*command) == 0  # without them, the other rows
    assert "without ppdm-boxes, ggnet-boxes: they need --detections" in capsys.readouterr().out
    assert here[3:] == [f"table5/{name}, seed 317" for name in ("baseline", "ppdm")]


def test_boxes_that_change_meanwhile_are_refused(here, tiny, scenes, tmp_path, monkeypatch, capsys):
    boxes = boxes_of_the_test_images(scenes, tmp_path / "boxes.json")

    def changes(job):
        original(job)
        boxes.write_text("[]")

    original = execute.write_config
    monkeypatch.setattr(execute, "write_config", changes)
    command = ("table5", tmp_path / "study", "--seeds", 1, *tiny, "--rows", "ggnet-boxes")
    assert ablate(*command, "--detections", boxes) == 2
    assert "boxes.json has changed since the study began" in capsys.readouterr().err


def test_equal_weights_are_not_trained_side_by_side(no_trials, tiny, tmp_path):
    """The second waits, and takes them."""
    out, rows = tmp_path / "study", "focal,focal-exponent0.5,beta7"
    command = ("hna", out, "--rows", rows, "--seeds", 1, *tiny, "--jobs", 3, "train.epochs=1")
    assert ablate(*command) == 0
    epochs = [path.read_text() for path in out.glob(f"{RUNS}/*/{RESULTS}")]  # with their seconds
    assert (len(epochs), len(set(epochs))) == (3, 2)


def test_runs_of_an_older_version_are_found(here, tiny, tmp_path):
    """One that did not know a setting has another fingerprint in the folder's name."""
    out = tmp_path / "study"
    command = ("table7", out, *TWO, "--seeds", 1, *tiny, "train.epochs=1")
    assert ablate(*command) == 0
    for run in list((out / RUNS).iterdir()):
        settings = yaml.safe_load((run / CONFIG).read_text())
        assert settings["model"].pop("checkpointing") == "none"
        (run / CONFIG).write_text(yaml.safe_dump(settings))
        run.rename(run.with_name(f"old{run.name[3:]}"))
    before = _scores(json.loads((out / "table7.json").read_text()))
    assert ablate(*command) == 0
    assert len(here) == 2
    assert _scores(json.loads((out / "table7.json").read_text())) == before


def test_a_dry_run_leaves_nothing(here, tiny, tmp_path, capsys):
    out = tmp_path / "study"
    assert ablate("table7", out, "--dry-run", *tiny) == 0
    shown = capsys.readouterr().out
    assert "15 runs, 0 of them done" in shown
    assert "offset_weight=0.5" in shown
    assert " 1.1 " in shown  # minutes
    assert " 1.0 " in shown  # GiB
    assert here == []
    assert not out.exists()


def test_the_split_test_decides_where_there_is_a_val(here, tiny, scenes, tmp_path):
    root = tmp_path / "with-val"
    shutil.copytree(scenes, root)
    described = json.loads((root / "dataset.json").read_text())
    described["splits"]["val"] = described["splits"]["train"]
    (root / "dataset.json").write_text(json.dumps(described))
    out = tmp_path / "study"
    more = [*tiny, "--root", root, "train.epochs=1"]
    assert ablate("table7", out, "--rows", "lambda0.1", "--seeds", 1, *more) == 0
    [result] = out.glob(f"{RUNS}/*/{RESULT}")
    assert json.loads(result.read_text())["images"] == 6


def test_a_run_whose_training_is_over_is_only_scored(here, tiny, tmp_path):
    """Killed between its last checkpoint and its result."""
    out = tmp_path / "study"
    command = ("table7", out, "--rows", "lambda0.1", "--seeds", 1, *tiny)
    assert ablate(*command) == 0
    [result] = out.glob(f"{RUNS}/*/{RESULT}")
    before, state = json.loads(result.read_text()), (result.parent / LAST).read_bytes()
    result.unlink()
    assert ablate(*command) == 0
    after = json.loads(result.read_text())
    assert after["metrics"] == before["metrics"]
    assert after["errors"] == before["errors"]
    assert (result.parent / LAST).read_bytes() == state


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tabel7"], "no table 'tabel7'; did you mean 'table7'?"),
        (["table7", "--rows", "lambda0.1,lamda0.5"], "no row 'lamda0.5' in table7; did you mean"),
        (["table5", "--rows", "ggnet-boxes"], "give them with --detections FILE"),
        (["table7", "--detections", "b.json"], "no row of table7 asked for is about them"),
        (["table5", "--detections", "nowhere.json"], "nowhere.json"),
        (["table7", "--seeds", "0"], "--seeds is 0; expected at least 1"),
        (["table7", "--jobs", "-1"], "--jobs is -1; expected at least 1"),
        (["table7", "--data", "coco"], "table7 has no preset for 'coco'"),
        (["table7", "loss.offset_weight=2"], "loss.offset_weight is what the rows of table7 fix"),
        (["table7", "train.epohcs=2"], "did you mean 'train.epochs'?"),
        (["table7", "--root", "nowhere"], "nowhere is not a dataset"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(arguments, expected, here, tiny, tmp_path, capsys):
    table, *more = arguments
    assert ablate(table, tmp_path / "study", *tiny, *more) == 2
    assert expected in capsys.readouterr().err
    assert here == []
    assert not (tmp_path / "study").exists()


def test_a_dataset_without_a_test_split(here, tiny, scenes, tmp_path, capsys):
    root = tmp_path / "untested"
    shutil.copytree(scenes, root)
    described = json.loads((root / "dataset.json").read_text())
    described["splits"]["val"] = described["splits"].pop("test")
    (root / "dataset.json").write_text(json.dumps(described))
    assert ablate("table7", tmp_path / "study", *tiny, "--root", root) == 2
    assert "has no split 'test'; it has train, val" in capsys.readouterr().err
    assert here == []


def test_another_budget_or_dataset_or_folder_is_refused(here, tiny, scenes, tmp_path, capsys):
    out = tmp_path / "study"
    begin = ("table7", out, "--rows", "lambda0.1", "--seeds", 1, *tiny, "train.epochs=1")
    assert ablate(*begin) == 0

    def refused(*arguments):
        assert ablate(*arguments) == 2
        return capsys.readouterr().err

    assert "train.epochs: 1 there, 9 asked for" in refused(*begin, "train.epochs=9")
    assert "data.flip" in refused("table6", out, *tiny, "train.epochs=1", "data.flip=0")
    # What each row of each table fixes is no part of the budget: a preset may change it.
    values = json.loads((out / STUDY).read_text())
    assert values["settings"]["loss"]["beta"] == 2.0
    values["settings"]["loss"]["beta"] = 7.0
    (out / STUDY).write_text(json.dumps(values))
    assert ablate(*begin) == 0
    other = tmp_path / "other"
    shutil.copytree(scenes, other)
    rows = json.loads((other / "test.json").read_text())
    (other / "test.json").write_text(json.dumps(rows[:-1]))
    assert "is of another dataset" in refused(*begin, "--root", other)
    [run] = (out / RUNS).iterdir()
    assert "is the folder of one run" in refused("table7", run, *tiny)
    assert "holds something that is no study" in refused("table7", scenes, *tiny)
    (out / STUDY).write_text("{}")
    assert "study.json cannot be read" in refused(*begin)
    assert len(here) == 1


def test_a_run_folder_with_another_runs_content_is_refused(here, tiny, tmp_path, capsys):
    out = tmp_path / "study"
    command = ("table7", out, *TWO, "--seeds", 1, *tiny, "train.epochs=1")
    assert ablate(*command) == 0
    one, two = sorted((out / RUNS).iterdir())
    for mine, other in ((one, two), (two, one)):
        kept = (mine / CONFIG).read_bytes()
        (mine / CONFIG).write_bytes((other / CONFIG).read_bytes())
        assert ablate(*command) == 2
        error = capsys.readouterr().err
        assert str(mine) in error
        assert "loss.offset_weight" in error
        (mine / CONFIG).write_bytes(kept)


def test_a_run_that_fails_does_not_stop_the_others(no_trials, tiny, tmp_path, capsys, monkeypatch):
    out = tmp_path / "study"
    command = ("table7", out, *TWO, "--seeds", 1, *tiny, "train.epochs=1")
    # A worker that cannot train one of the rows, and leaves a result for the other.
    script = (
        "import json, sys; from pathlib import Path; folder = Path(sys.argv[2]);"
        "bad = 'offset_weight: 0.5' in (folder / 'config.yaml').read_text();"
        "print('error: no luck') or sys.exit(2) if bad else (folder / 'result.json').write_text("
        "json.dumps({'metrics': {'mAP': 1.0}, 'errors': dict.fromkeys(json.loads(sys.argv[1]), 0),"
        "'images': 6, 'seconds': 1.0, 'memory': 1, 'machine': 'm'}))"
    )
    from ggnet.eval.errors import CAUSES

    monkeypatch.setattr(
        execute, "WORKER", [sys.executable, "-c", _shifted(script, json.dumps(list(CAUSES)))]
    )
    assert ablate(*command) == 2
    captured = capsys.readouterr()
    assert "1 of 2 runs have failed" in captured.err
    assert "table7/lambda0.5, seed 317: no luck" in captured.err
    assert list(json.loads((out / "table7.json").read_text())["rows"]) == ["lambda0.1"]


def _shifted(script, first):
    return f"import sys; sys.argv[1] = {first!r}; {script}"


def test_a_trial_says_what_a_run_needs(tiny, scenes):
    config = module._budget(
        module.Wish("table7", root=str(scenes), overrides=[x for x in tiny if "." in x][1:])
    )
    needs = worker.probe(config)
    assert all(needs[name] > 0 for name in ("training", "evaluation"))
    assert 2**27 < needs["memory"] < 2**34


def test_a_trial_that_fails_is_a_message(tiny, scenes):
    config = module._budget(module.Wish("table7", root=str(scenes)))
    config.data.root = "gone"
    with pytest.raises(UserError, match="gone is not a dataset"):
        execute.probe(config)


def _start(out, tiny, jobs):
    command = ["ablate", "table7", "--out", str(out), *TWO, "--seeds", "2", *tiny]
    return subprocess.Popen(
        [sys.executable, "-m", "ggnet", *command, "--jobs", str(jobs), "train.epochs=8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for(pattern, out, process):
    """Until a file is there; the first such."""
    while not (found := sorted(out.glob(pattern))):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return found[0]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The folder of a study that nobody has disturbed, all its runs at a time."""
    out = tmp_path_factory.mktemp("whole") / "study"
    process = _start(out, tiny, jobs=4)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", ["study", "run", "interrupt"])
def test_killed_on_the_way_it_ends_with_the_same_bits(how, whole, tiny, tmp_path):
    """One run at a time, killed within the second, and then two at a time."""
    out = tmp_path / "study"
    process = _start(out, tiny, jobs=1)
    first = _wait_for(f"{RUNS}/*/{RESULT}", out, process).parent
    while not (begun := set(out.glob(f"{RUNS}/*/{RESULTS}")) - {first / RESULTS}):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    second = begun.pop().parent
    owner = int((second / LOCK).read_text().split()[1])
    if how == "run":
        os.kill(owner, signal.SIGKILL)
        output = process.communicate()[0]
        assert process.returncode == 2
        assert "1 of 4 runs have failed" in output
    else:
        process.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGKILL)
        output = process.communicate()[0]
        if how == "interrupt":
            assert process.returncode == INTERRUPTED, output
            assert "The same command goes on from here" in output
            assert not Path(f"/proc/{owner}").exists()
    assert not (second / RESULT).exists()
    before = (first / RESULT).stat().st_mtime_ns

    again = _start(out, tiny, jobs=2)
    output = again.communicate()[0]
    assert again.returncode == 0, output
    assert "resumed at epoch" in (second / LOG).read_text()
    assert (first / RESULT).stat().st_mtime_ns == before
    one, other = (json.loads((folder / "table7.json").read_text()) for folder in (whole, out))
    assert _scores(one) == _scores(other)
    assert one["comparisons"] == other["comparisons"]
    for folder in (whole / RUNS).iterdir():
        name = folder / PREDICTIONS
        assert name.read_bytes() == (out / RUNS / folder.name / PREDICTIONS).read_bytes()


def _scores(table):
    return {
        name: {seed: (run["metrics"], run["errors"]) for seed, run in row["runs"].items()}
        for name, row in table["rows"].items()
    }


def test_the_bundled_dataset_has_1500_test_images(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = {}

    def generate(root, **counts):
        made.update(counts, root=root)
        raise UserError("enough")

    monkeypatch.setattr(module, "generate", generate)
    assert ablate("table7", tmp_path / "study") == 2
    assert (made["root"], made["train"], made["test"]) == ("data/scenes-1500", 2000, 1500)


def test_a_run_on_a_cpu_is_one_process_unless_said_otherwise(scenes):
    def workers(*more):
        wish = module.Wish("table7", root=str(scenes), overrides=["train.device=cpu", *more])
        return module._budget(wish).data.workers

    assert workers() == 0
    assert workers("data.workers=3") == 3


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1", "0"]), ("3,5,7", ["3", "5", "3"])]
)
def test_each_run_has_a_gpu_and_a_thread(visible, expected, scenes, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = module._budget(module.Wish("table7", root=str(scenes)))
    found = [execute._environment(slot, config) for slot in range(3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == expected
    assert {each["OMP_NUM_THREADS"] for each in found} == {"1"}
    config.train.device = "cpu"
    assert execute._environment(1, config).get("CUDA_VISIBLE_DEVICES") == visible
