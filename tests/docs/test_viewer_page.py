"""docs/viewer.md: its commands, with an untrained network's run."""

import shutil

import pytest
from pages import Shell, commands
from samples import save_untrained

from ggnet.config import Config
from ggnet.data.annotations import load_dataset


@pytest.mark.slow
def test_commands(tmp_path, scenes):
    folder = tmp_path / "clone"
    shutil.copytree(scenes, folder / "data" / "scenes")
    config = Config()
    config.data.input_size, config.data.workers, config.model.width = (64, 64), 0, 16
    config.train.device = "cpu"
    save_untrained(folder / "runs" / "demo", config, load_dataset(scenes).vocabulary)
    shell = Shell(folder)
    shell.run("ggnet eval runs/demo")
    shutil.copy(folder / "runs" / "demo" / "predictions.json", folder)
    lines = commands("docs/viewer.md")
    assert len(lines) == 3
    for line, page in zip(
        lines, ("runs/demo/report.html", "browse.html", "report.html"), strict=True
    ):
        assert f"{page}, with its pictures in" in shell.run(line)
        assert (folder / page).exists()
