"""The paper's rows: each is a network that trains, under either flavour."""

import pytest
import torch

from ggnet.ablate.flavours import DIFFERENCES, FLAVOURS
from ggnet.ablate.rows import DATA, base_config, find_rows, preset, row_overrides
from ggnet.ablate.tables import TABLES
from ggnet.cli import main
from ggnet.config import load_config, parse_config
from ggnet.data.dataset import make_loader
from ggnet.data.unseen import open_dataset
from ggnet.engine.optim import build_optimizer
from ggnet.errors import UserError
from ggnet.models import build_model
from ggnet.nn import GGNetLoss

ROWS = [f"{table}/{row}" for table in TABLES for row in TABLES[table].rows]


def config_of(name, data, flavour=None, more=()):
    table = name.partition("/")[0]
    _, source = preset(table, data)
    return load_config(source, [*row_overrides(name, data, flavour), *more])


@pytest.fixture(scope="module")
def batch(scenes):
    """Four training images of the bundled dataset as a batch of the demo's size."""
    config = load_config("demo", [f"data.root={scenes}", "data.workers=0", "train.batch_size=4"])
    dataset = open_dataset(config.data)
    loader = make_loader(dataset.load("train"), dataset.vocabulary, config, train=True)
    return dataset.vocabulary, next(iter(loader))


@pytest.mark.parametrize("name", ROWS)
def test_every_row_takes_a_step(name, batch):
    vocabulary, images = batch
    config = config_of(name, "scenes")
    torch.manual_seed(0)
    model = build_model(config.model, len(vocabulary.objects), len(vocabulary.verbs)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = build_optimizer(model, config.train)
    total, _ = GGNetLoss(config.loss)(model(images.images), images)
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("flavour", [None, *FLAVOURS])
def test_every_row_is_a_configuration_of_its_benchmarks(flavour):
    for name in ROWS:
        table = name.partition("/")[0]
        for data in TABLES[table].presets:
            config = config_of(name, data, flavour)
            assert parse_config(config.model_dump()) == config


def test_the_paper_compares_what_the_tables_compare():
    for name, table in TABLES.items():
        for key, row in table.rows.items():
            assert set(row.against) <= table.rows.keys() - {key}, f"{name}/{key}"
            assert set(row.paper) <= set(table.columns)
            if name != "hna":
                assert row.paper
        assert set(table.presets) <= set(DATA)


def test_rows_that_are_one_network_have_equal_settings():
    same = ("table1/ggnet", "table2/steps2", "table4/ggnet", "table6/beta7", "table7/lambda0.1")
    settings = [config_of(name, "scenes") for name in (*same, "hna/beta7")]
    assert all(config == settings[0] for config in settings)
    assert config_of("table1/baseline", "scenes") == config_of("table3/interaction", "scenes")
    assert config_of("table1/without-hna", "scenes") == config_of("hna/focal", "scenes")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_flavour_sets_each_of_its_differences(flavour):
    for difference in DIFFERENCES:
        assert difference.paper.keys() == difference.original.keys()
        for data in difference.data:
            name = f"{(*difference.tables, 'table1')[0]}/ggnet"
            found = config_of(name, data, flavour).model_dump()
            for key, value in getattr(difference, flavour).items():
                section, _, setting = key.partition(".")
                assert found[section][setting] == value, difference.what


def test_what_a_row_is_about_goes_before_the_flavour():
    config = config_of("hna/beta7-same", "scenes", "original")
    assert config.loss.target_style == "same"
    assert config_of("table1/ggnet", "hico", "original").model.gaze_steps == 2
    assert config_of("table5/ggnet", "hico", "original").model.gaze_steps == 1


def test_a_budget_may_not_set_what_the_rows_fix():
    with pytest.raises(UserError, match="loss.beta is what the rows of table6 fix"):
        base_config("table6", "scenes", None, ["loss.beta=3"])
    base_config("hna", "scenes", None, ["train.epochs=1"])  # of some of its rows


def test_train_takes_a_row(capsys):
    command = ["train", "--print-config", "--row", "table1/without-hna", "--data", "hico"]
    assert main([*command, "--flavour", "original", "train.epochs=3"]) == 0
    shown = capsys.readouterr().out
    for line in ("backbone: dla34", "interaction: focal", "epochs: 3", "rule: product"):
        assert line in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--row", "table9/ggnet"], "no table 'table9'; did you mean"),
        (["--row", "table1/ggnt"], "no row 'ggnt' in table1; did you mean 'ggnet'?"),
        (["--row", "table1"], "'table1' is a table; expected one of its rows: table1/baseline"),
        (["--row", "table5/ggnet", "--data", "vcoco"], "table5 has no preset for 'vcoco'"),
        (["--row", "table1/ggnet", "--flavour", "papers"], "did you mean 'paper'?"),
        (["--flavour", "paper"], "--flavour and --data say how a row is meant: give --row"),
        (["--resume", "runs/a", "--row", "table1/ggnet"], "--resume goes on with the run's own"),
    ],
)
def test_a_mistake_is_named(arguments, expected, capsys):
    assert main(["train", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_rows_in_the_tables_order():
    assert list(find_rows("table1", ["ggnet", "baseline"])) == ["baseline", "ggnet"]
    boxes = [name for name, row in find_rows("table5").items() if row.other_boxes]
    assert boxes == ["ppdm-boxes", "ggnet-boxes"]
