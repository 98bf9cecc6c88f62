"""`ggnet ablate --take`: the results of another machine's study."""

import json
from copy import deepcopy

import pytest
from ablate_command import ablate, boxes_of_the_test_images

from ggnet.ablate.study import RESULT, RUNS

TABLE = "table7.json"
ROWS = ("--rows", "lambda0.1,lambda0.5")


def rows_of(folder, table=TABLE):
    return json.loads((folder / table).read_text())["rows"]


def changed(study, change, folder):
    """The study's table after `change`, in a file in `folder`."""
    values = json.loads((study / TABLE).read_text())
    change(values)
    (folder / "changed.json").write_text(json.dumps(values))
    return folder / "changed.json"


def test_what_was_taken_is_done(theirs, here, tiny, tmp_path, capsys):
    out = tmp_path / "mine"
    command = ("table7", out, *ROWS, "--take", theirs / TABLE, *tiny, "--seeds")
    assert ablate(*command, 2, "--dry-run") == 0
    assert "4 runs, 2 of them done" in capsys.readouterr().out
    assert not out.exists()
    assert ablate(*command, 1) == 0
    assert here == []
    assert rows_of(out) == rows_of(theirs)
    assert ablate("table7", out, *ROWS, "--seeds", 2, *tiny) == 0  # they have been written down
    assert here == [f"table7/lambda{weight}, seed 318" for weight in (0.1, 0.5)]
    for name, row in rows_of(out).items():
        assert list(row["runs"]) == ["317", "318"]
        assert row["runs"]["317"] == rows_of(theirs)[name]["runs"]["317"]


def test_of_any_table(theirs, here, tiny, tmp_path):
    """table7/lambda0.1 is the full network, in whichever table it stands."""
    out = tmp_path / "mine"
    assert ablate("table6", tmp_path / "6", "--rows", "beta6", "--seeds", 1, *tiny) == 0
    here.clear()
    take = ("--take", theirs / TABLE, "--take", tmp_path / "6" / "table6.json")
    assert ablate("table6", out, "--rows", "beta6,beta7", "--seeds", 1, *take, *tiny) == 0
    assert here == []
    mine, other = rows_of(out, "table6.json"), rows_of(tmp_path / "6", "table6.json")
    assert mine["beta6"] == other["beta6"]
    assert mine["beta7"]["runs"] == rows_of(theirs)["lambda0.1"]["runs"]


def test_what_is_here_stays(theirs, here, tiny, tmp_path):
    out = tmp_path / "mine"
    mine = ("table7", out, "--rows", "lambda0.1", "--seeds", 1, *tiny)
    assert ablate(*mine) == 0
    before = rows_of(out)

    def better(values):
        for row in values["rows"].values():
            row["runs"]["317"]["metrics"]["mAP"] = 99.0

    assert ablate(*mine, "--take", changed(theirs, better, tmp_path)) == 0
    assert {"lambda0.1": rows_of(out)["lambda0.1"]} == before
    assert rows_of(out)["lambda0.5"]["mean"] == 99

    results = {
        json.loads(p.read_text())["metrics"]["mAP"]: p for p in out.glob(f"{RUNS}/*/{RESULT}")
    }
    assert sorted(results) == [before["lambda0.1"]["mean"], 99.0]
    for result in results.values():  # as if killed before they were written
        result.unlink()
    again = ("table7", out, *ROWS, "--seeds", 1, *tiny, "--take", changed(theirs, better, tmp_path))
    here.clear()
    assert ablate(*again) == 0
    assert here == ["table7/lambda0.1, seed 317"]  # its checkpoint is here
    assert rows_of(out)["lambda0.5"]["mean"] == 99


def test_differences_of_the_causes(theirs, here, tiny, tmp_path):
    """Of two seeds: Student's t of one degree of freedom is 12.706 at 97.5 %, and the error half
    the difference between the two."""

    def counts(values):
        one, other = (values["rows"][f"lambda{weight}"]["runs"] for weight in (0.1, 0.5))
        for runs in (one, other):
            runs["317"]["errors"] = dict.fromkeys(runs["317"]["errors"], 50)
            runs["318"] = deepcopy(runs["317"])
        other["317"]["errors"] |= {"wrong verb": 60, "wrong pairing": 10, "duplicate": 51}
        other["318"]["errors"] |= {"wrong verb": 64, "wrong pairing": 8, "duplicate": 51}

    out = tmp_path / "mine"
    take = ("--take", changed(theirs, counts, tmp_path))
    assert ablate("table7", out, *ROWS, "--seeds", 2, *tiny, *take) == 0
    page = (out / "table7.md").read_text().splitlines()
    columns, _, differences = (line.strip("| ").split(" | ") for line in page[-3:])
    expected = dict.fromkeys(columns[2:], "+0 ± 0") | {
        "row": "lambda0.5",
        "against": "lambda0.1",
        "wrong verb": "+12 ± 25",
        "wrong pairing": "**-41** ± 13",
        "duplicate": "**+1** ± 0",
    }
    assert dict(zip(columns, differences, strict=True)) == expected
    [compared] = json.loads((out / TABLE).read_text())["comparisons"]
    found = compared["errors"]["wrong pairing"]
    assert (found["count"], found["mean"], found["here"]) == (2, -41, "lower")
    assert found["high"] == pytest.approx(-41 + 12.7062, abs=1e-4)

    assert ablate("table7", tmp_path / "one", *ROWS, "--seeds", 1, *tiny) == 0  # no intervals
    assert " ± " not in (tmp_path / "one" / "table7.md").read_text().splitlines()[-1]


def test_weights_are_not_taken_from_a_run_without(here, trained, tiny, tmp_path, capsys):
    """A row that differs in its evaluation alone is trained here, and its time is told so."""
    one = ("--rows", "focal", "--seeds", 1, *tiny)
    assert ablate("hna", tmp_path / "theirs", *one) == 0
    table, out = tmp_path / "theirs" / "hna.json", tmp_path / "mine"
    assert ablate("hna", out, *one, "--take", table) == 0
    two = ("--rows", "focal,focal-exponent0.5", "--seeds", 1, *tiny)
    capsys.readouterr()
    assert ablate("hna", out, *two, "--dry-run") == 0
    assert "1 runs to do, 1 at a time: about 1 min" in capsys.readouterr().out
    assert ablate("hna", out, *two) == 0
    assert trained == [1.0, 0.5]


def test_a_flavour_that_goes_before_the_row(here, tiny, tmp_path):
    """The published code's gaze steps on HICO-DET: one, where the row says two."""
    of = ("--data", "hico", "--flavour", "original", "model.backbone=tiny")
    command, theirs = ("--rows", "ggnet", "--seeds", 1, *tiny, *of), tmp_path / "theirs"
    assert ablate("table5", theirs, *command) == 0
    settings = rows_of(theirs, "table5.json")["ggnet"]["settings"]
    assert (settings["model.gaze_steps"], settings["loss.beta"]) == (1, 7.0)
    here.clear()
    assert ablate("table5", tmp_path / "mine", *command, "--take", theirs / "table5.json") == 0
    assert here == []


def test_other_boxes(here, tiny, scenes, tmp_path, capsys):
    boxes = boxes_of_the_test_images(scenes, tmp_path / "boxes.json")
    moved = boxes_of_the_test_images(scenes, tmp_path / "moved.json", moved=9.0)
    theirs, out = tmp_path / "theirs", tmp_path / "mine"
    more = ("--rows", "ggnet,ggnet-boxes", "--seeds", 1, *tiny, "train.epochs=1")
    assert ablate("table5", theirs, *more, "--detections", boxes) == 0
    here.clear()
    take = ("--take", theirs / "table5.json")
    assert ablate("table5", out, *more, *take, "--detections", moved) == 2
    assert "ggnet-boxes was scored with other boxes than --detections" in capsys.readouterr().err
    only = ("--rows", "ggnet", *more[2:], *take)
    assert ablate("table5", out, *only) == 0  # no row of this study is about them
    assert ablate("table5", out, *more, *take, "--detections", boxes) == 0
    assert here == []
    assert rows_of(out, "table5.json") == rows_of(theirs, "table5.json")

    values = json.loads((theirs / "table5.json").read_text())
    del values["rows"]["ggnet-boxes"]["other_boxes"]  # of an older version: not taken for ggnet's
    (theirs / "old.json").write_text(json.dumps(values))
    old = ("--rows", "ggnet", *more[2:], "--take", theirs / "old.json")
    assert ablate("table5", tmp_path / "other", *old) == 2
    assert "old.json cannot be read" in capsys.readouterr().err


def other_budget(values):
    values["budget"]["train"]["epochs"] += 1


def other_dataset(values):
    values["dataset"]["sha256"] = "0" * 64


def unknown_setting(values):
    values["rows"]["lambda0.1"]["settings"]["loss.lambda"] = 1


def no_score(values):
    values["rows"]["lambda0.1"]["runs"]["317"]["metrics"]["mAP"] = float("nan")


def no_cause(values):
    del values["rows"]["lambda0.1"]["runs"]["317"]["errors"]["wrong verb"]


def no_seed(values):
    runs = values["rows"]["lambda0.1"]["runs"]
    runs["first"] = runs.pop("317")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_budget, "train.epochs: 4 there, 3 asked for"),
        (other_dataset, "is of another dataset"),
        (unknown_setting, "loss.lambda"),
        (no_score, "cannot be read"),
        (no_cause, "cannot be read"),
        (no_seed, "cannot be read"),
        (dict.clear, "cannot be read"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    change, expected, theirs, here, tiny, tmp_path, capsys
):
    out, table = tmp_path / "mine", changed(theirs, change, tmp_path)
    assert ablate("table7", out, *ROWS, "--seeds", 1, *tiny, "--take", table) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert str(table) in error
    assert here == []
    assert not (out / RUNS).exists()


def test_a_table_that_is_not_there(here, tiny, tmp_path, capsys):
    more = ("--take", tmp_path / "nowhere.json")
    assert ablate("table7", tmp_path / "mine", *tiny, *more) == 2
    assert "nowhere.json" in capsys.readouterr().err
    assert here == []
