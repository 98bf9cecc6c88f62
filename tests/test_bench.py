import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench/ is not installed

from bench import dropin, loader, model, networks, publish, shared  # noqa: E402
from bench.cases import CASES, Missing, case, fields  # noqa: E402
from ggnet import ops, reference  # noqa: E402


def results(ggnet, dense, extra):
    common = {
        "op": "actpoint_aggregate",
        "shape": publish.ACTPOINT,
        "mode": "forward",
        "dtype": "float32",
        "gflops": 100.0,
        "gbs": 1.0,
    }
    return {
        "machine": {"cpu": "CPU", "isa": "AVX2", "threads": 2, "torch": "2", "clock": "wall time"},
        "ceilings": {"gemm_gflops": 200.0, "copy_gbs": 10.0},
        "rows": [
            {**common, "provider": "ggnet", "seconds": ggnet, "extra_bytes": extra},
            {**common, "provider": "dense conv2d", "seconds": dense},
        ],
    }


@pytest.mark.parametrize(
    ("dense", "extra", "missed"), [(0.2, 40e6, []), (0.1, 50e6, ["dense 5x5", "extra MB"])]
)
def test_published_goals_are_judged_by_ggnets_time_and_memory(dense, extra, missed):
    found = publish.goals(results(0.2, dense, extra))
    assert [(round(value, 9)) for _, _, value in found] == [0.2 / dense, extra / 1e6]
    lines = publish.markdown(results(0.2, dense, extra)).splitlines()
    bad = [line for line in lines if line.endswith("missed |")]
    assert len(bad) == len(missed)
    assert all(word in line for word, line in zip(missed, bad, strict=True))


def test_table_has_the_peers_time_over_ggnets():
    lines = publish.markdown(results(0.2, 0.3, 1e6)).splitlines()
    line = next(line for line in lines if line.startswith("| `"))
    assert "| 1.5 |" in line


def test_gpu_goals_are_judged_by_kernels_or_calls():
    def row(shape, dtype, mode, provider, seconds, kernels=None):
        found = {"op": "actpoint_aggregate", "gflops": 1.0, "gbs": 1.0, "seconds": seconds}
        found |= {"shape": shape, "dtype": dtype, "mode": mode, "provider": provider}
        return found | ({} if kernels is None else {"kernel_seconds": kernels})

    eight, one = publish.ACTPOINT_8, publish.ACTPOINT
    file = results(0.2, 0.3, 1e6)
    file["machine"]["gpu"] = "a GPU"
    file["rows"] = [
        row(eight, "bfloat16", "forward", "ggnet", 9, 2e-3),
        row(eight, "bfloat16", "forward", "dense conv2d", 1, 1e-3),
        row(eight, "bfloat16", "full", "ggnet", 9, 4e-3),
        row(eight, "bfloat16", "deterministic", "ggnet", 9, 5e-3),
        row(one, "float32", "full", "ggnet", 1.0, 9),
        row(one, "float32", "full", "torchvision", 4.0),
    ]
    values = [value for *_, value in publish.gpu_goals(file)]
    assert values == pytest.approx([2.0, 4.0, 1.25, 0.25])
    lines = publish.markdown(file).splitlines()
    judged = [line.endswith("missed |") for line in lines if line.startswith("| ActPoints")]
    assert judged == [True, False, False, False]
    assert any("; 0.5 |" in line for line in lines if "forward, bfloat16" in line)


def test_page_has_one_place_for_each_table():
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    begins = [*publish.BEGIN.values(), dropin.BEGIN]
    assert [text.count(begin) for begin in begins] == [1] * len(begins)
    assert text.count(publish.END) == text.count(": begin -->")


def test_a_shape_has_a_number_for_each_field():
    for name, (_, usual) in CASES.items():
        assert len(fields(name)) == len(usual)
    assert case("actpoint", (2, 8, 4, 6, 3)).shape == "2x8x6x6, 4 outputs, 9 points"
    strided = case("basicvsr", (1, 8, 4, 5, 7, 1, 2, 2, 4))
    assert strided.shape == "1x8x5x7, 4 outputs, 1 points, stride 2, 2 groups, 4 offset groups"
    assert strided.flops == 2 * (3 * 4) * 4 * 4


def test_memory_goals_do_not_count_the_result():
    name = "BasicVSR++'s 16 offset groups forward, extra memory : torchvision's columns"
    [(_, key, memory, _)] = [goal for goal in publish.GOALS if goal[0] == name]
    row = dict(zip(("op", "shape", "mode", "dtype"), key, strict=True)) | {"provider": "ggnet"}
    row |= {"seconds": 1.0, "gflops": 1.0, "gbs": 1.0}
    assert case("basicvsr").shape == row["shape"]
    output, columns = 4 * 64 * 180 * 320, 4 * 128 * 9 * 180 * 320
    assert memory == (columns, output)
    for extra, expected in ((output + columns / 4, 0.25), (output / 2, 0.0)):
        found = publish.goals({"rows": [row | {"extra_bytes": extra}], "ceilings": {}})
        assert [value for *_, value in found] == [expected]


DEFORM_SHAPES = ((2, 8, 6, 9, 11, 3, 2, 1, 1), (1, 8, 6, 7, 5, 1, 1, 2, 4))


@pytest.mark.parametrize("provider", ["ggnet", "torchvision", "openvino", "onnxruntime"])
@pytest.mark.parametrize("shape", DEFORM_SHAPES)
def test_peers_are_given_the_same_convolution(shape, provider):
    of = case("deform3x3", shape)
    torch.manual_seed(0)
    inputs = of.make(torch.float32)
    for tensor in inputs.tensors.values():
        tensor.requires_grad_(False)
    try:
        found = of.providers[provider](inputs)()
    except Missing as reason:
        pytest.skip(str(reason))
    expected = of.providers["torch eager"](inputs)()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_replaced_networks_are_measured_and_published(tmp_path, monkeypatch):
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    page, out = tmp_path / "benchmarks.md", tmp_path / "dropin.json"
    page.write_text(f"{dropin.BEGIN}\nold\n{publish.END}\n")
    monkeypatch.setattr(dropin, "PAGE", page)
    small = f"--network birefnet --small --threads 1 --repeats 3 --out {out} --publish"
    assert dropin.main(small.split()) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["mode"] for row in rows] == ["forward", "full"]
    assert all(set(row["seconds"]) == {"torchvision", "ggnet"} for row in rows)
    assert "old" not in page.read_text()
    assert page.read_text().count("| birefnet, small, ") == 2


def test_a_replaced_network_that_differs_is_not_timed():
    class Noise(torch.nn.Module):
        def forward(self, x):
            return torch.rand_like(x)

    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    with pytest.raises(RuntimeError, match="the outputs differ by"):
        dropin.check(Noise(), (torch.rand(9),))


TINY = {mode: model.Case("ggnet", "tiny", mode, "float32", 1, 64) for mode in model.MODES}


@pytest.mark.parametrize("mode", model.MODES)
@pytest.mark.parametrize("network", networks.NETWORKS)
def test_the_eager_network_is_the_same_network(network, mode):
    tiny = model.Case(network, "tiny", mode, "float32", 1, 64)
    _, base = model.setting(tiny)
    differences = model.check(tiny, base, reference.deform_conv2d)
    assert ("gradient" in differences) == (mode == "train")
    assert max(differences.values()) < 1e-3


@pytest.mark.parametrize("mode", model.MODES)
def test_different_networks_are_not_timed(mode):
    def without_mask(*tensors, mask, **geometry):
        return reference.deform_conv2d(*tensors, **geometry)

    _, base = model.setting(TINY[mode])
    with pytest.raises(RuntimeError, match="not the same network"):
        model.check(TINY[mode], base, without_mask)


def test_eager_operators_stay_inside_their_context():
    def refuse(*_, **__):
        raise ZeroDivisionError

    host, base = model.setting(TINY["inference"])
    with pytest.raises(ZeroDivisionError), networks.Eager(refuse).patched():
        base(host.images)
    base(host.images)


def test_decoding_image_by_image_gives_the_same_triplets():
    def peaks(channels, scale=2.0):
        return torch.randn(2, channels, 12, 12) * scale

    torch.manual_seed(0)
    outputs = {
        "heatmap": peaks(3),
        "size": peaks(2).abs(),
        "center_frac": torch.rand(2, 2, 12, 12),
        "interaction": peaks(4),
        "human_offset": peaks(8),
        "object_offset": peaks(8),
    }
    valid = torch.rand(4, 3) < 0.7
    ours = ops.decode_hoi(outputs, valid, allow_same=True)
    eager = networks.decode_images(outputs, valid)
    shown = ours.scores > 0
    assert 0 < shown.sum() < shown.numel()  # duplicates were left out
    torch.testing.assert_close(
        networks.packed(eager)[shown], networks.packed(ours)[shown], rtol=1e-5, atol=1e-5
    )


def test_model_bench_writes_what_it_measured_and_names_what_it_could_not(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("out of everything\nlong story")

    monkeypatch.setattr(model, "training", fails)
    for name in ("set_default_device", "set_num_threads"):  # they would stay for other tests
        monkeypatch.setattr(torch, name, lambda _: None)
    out = tmp_path / "model.json"
    arguments = "--backbone tiny --size 64 --repeats 3 --no-memory --threads 1 --provider ggnet"
    assert model.main([*arguments.split(), "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    [row], [skipped] = results["rows"], results["skipped"]
    assert (row["mode"], row["provider"], row["batch"]) == ("inference", "ggnet", 1)
    assert set(row["stages"]) == {"copy", "backbone", "heads", "gaze", "decode"}
    assert row["images_per_second"] == 1 / row["seconds"]
    assert (skipped["mode"], skipped["reason"]) == ("train", "RuntimeError: out of everything")


def test_flops_are_those_of_the_convolutions():
    conv = torch.nn.Conv2d(3, 4, 3, padding=1, groups=1)
    up = torch.nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4)
    counted = networks.flops(torch.nn.Sequential(conv, up), torch.rand(2, 3, 8, 8))
    assert counted == 2 * (8 * 8 * 4 * 27 + 8 * 8 * 4 * 16)


def test_model_goals_compare_a_provider_with_eager():
    goal = model.GOALS["cuda"][1]
    case = model.asdict(goal.case)
    rows = [
        {**case, "provider": "ggnet", "seconds": 1.0, "peak_bytes": 30},
        {**case, "provider": "eager", "seconds": 4.0, "peak_bytes": 40},
    ]
    found = model.goals({"machine": {"gpu": "one"}, "rows": rows})
    assert [(bound, measured) for _, bound, measured in found] == [(1 / 2.5, 0.25), (0.6, 0.75)]


@pytest.mark.slow
def test_tables_of_the_training_page(tmp_path, monkeypatch, capsys):
    page = tmp_path / "training.md"
    page.write_text(f"{loader.BEGIN}\n{publish.END}\nbetween\n{shared.BEGIN}\nold\n{publish.END}\n")
    monkeypatch.setattr(loader, "PAGE", page)
    monkeypatch.setattr(shared, "PAGE", page)
    small = "--images 3 --size 160x120 --input 64 --rounds 1 --steps 3 --rate 1000 --records 50"
    loader.main([*small.split(), "--publish"])
    shared.main(["--neighbours", "0", "--images", "32", "--publish"])
    text = page.read_text()
    assert "old" not in text
    assert text.index("| ggnet, bytes for a GPU |") < text.index("between")
    assert "let it wait" in text
    assert text.index("between") < text.index("| `ggnet train` |")
