"""Plots come out of any results.csv that a run can leave behind."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ggnet.errors import UserError
from ggnet.eval.hico import evaluate
from ggnet.viz.curves import plot_curves, plot_hoi_ap

HEADER = "epoch,step,lr,total,heatmap,mAP,mAP_rare,images_per_second,seconds\n"


@pytest.fixture
def plots(monkeypatch):
    """The figures that were saved."""
    saved = []
    original = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (saved.append(self), original(self, *a, **k))[1]
    )
    return saved


def lines(axes):
    """Name -> the numbers of a curve."""
    return {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}


@pytest.mark.parametrize(
    ("rows", "losses", "metrics"),
    [
        (
            ["1,10,0.001,5,3,,,100,2", "2,20,0.001,4,2,30.5,,110,2", "3,30,0.0001,3,1,40.5,,110,2"],
            {"total": [5, 4, 3], "heatmap": [3, 2, 1]},
            {"all HOIs": [30.5, 40.5]},
        ),
        # no evaluation yet
        (["1,10,0.001,5,3,,,100,2"], {"total": [5], "heatmap": [3]}, {}),
        (
            ["1,10,0.001,5,3,12.5,3.5,100,2"],
            {"total": [5], "heatmap": [3]},
            {"all HOIs": [12.5], "rare": [3.5]},
        ),
        # nothing found; a loss of exactly 0
        (["1,10,0.001,5,0,0,,100,2"], {"total": [5], "heatmap": [0]}, {"all HOIs": [0]}),
    ],
)
def test_curves(tmp_path, plots, rows, losses, metrics):
    (tmp_path / "results.csv").write_text(HEADER + "\n".join(rows) + "\n")
    plot_curves(tmp_path / "results.csv", tmp_path / "curves.png")
    [figure] = plots
    by_title = {axes.get_title(): axes for axes in figure.axes}
    assert lines(by_title["Training losses"]) == losses
    [*found] = (axes for title, axes in by_title.items() if title.startswith("Average precision"))
    assert [lines(axes) for axes in found] == ([metrics] if metrics else [])
    if metrics:
        best = max(metrics["all HOIs"])
        assert f"(best {best:.1f} at epoch {len(rows)})" in found[0].get_title()
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 400


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a table of numbers"),
        (HEADER, "not a table of numbers"),
        (HEADER + "1,10,abc,5,3,,,100,2\n", "not a table of numbers.*abc"),
        (HEADER + "1,10\n", "not a table of numbers|lacks the columns"),
        ("a,b\n1,2\n", "lacks the columns epoch and lr"),
    ],
)
def test_bad_table_is_named(tmp_path, text, problem):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match=rf"results\.csv.*({problem})"):
        plot_curves(tmp_path / "results.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*results\.csv"):
        plot_curves(tmp_path / "results.csv", tmp_path / "curves.png")


@pytest.mark.parametrize("counted", [True, False])
def test_ap_of_each_hoi(tmp_path, plots, prediction, record, vocabulary, counted):
    counts = np.array([3, 500, 20, 0, 7, 11])
    result = evaluate([prediction], [record], vocabulary, train_counts=counts if counted else None)
    plot_hoi_ap(result.hoi_ap(), counts, tmp_path / "hoi.png")
    [axes] = plots[0].axes
    marks = [points for points in axes.collections if points.get_label() in ("best", "worst")]
    groups = [points for points in axes.collections if points not in marks]
    drawn = np.concatenate([points.get_offsets() for points in groups])
    there = ~np.isnan(result.ap["default"])
    expected = np.column_stack([counts, result.ap["default"]])[there]
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, expected.tolist()))
    [text] = [child.get_text() for child in axes.texts]
    assert text.count("\n") >= len(expected)  # each of these few is named
    names = [points.get_label() for points in groups]
    assert names == (["non-rare (1)", "rare (2)"] if counted else ["HOI (3)"])
    with Image.open(tmp_path / "hoi.png") as picture:
        assert min(picture.size) > 400
