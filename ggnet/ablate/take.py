"""Results of other studies: of another machine, or published ones."""

from pathlib import Path

from ggnet.ablate.rows import as_overrides
from ggnet.ablate.study import Study, checked_result
from ggnet.config import override
from ggnet.data.annotations import read_json
from ggnet.errors import UserError, reader


@reader("a study's TABLE.json")
def take_results(path: Path, study: Study) -> None:
    """Let the runs of a TABLE.json be done in this study; they may be of any table.

    Of several tables with the same run, the first one that is taken counts.

    Raises:
        UserError: the file is broken, of another budget or dataset, or of other boxes.
    """
    values = read_json(path)
    study.check_same(path, values["budget"], values["dataset"])
    for name, row in values["rows"].items():
        # A table without boxes may be of a version that did not write this down.
        other_boxes = bool(values.get("boxes")) and row["other_boxes"]
        if other_boxes:
            if not study.boxes:
                continue  # no row of this study is about them
            if values["boxes"]["sha256"] != study.boxes.sha256:
                raise UserError(f"{path}: {name} was scored with other boxes than --detections")
        config = override(study.base, as_overrides(row["settings"]), f"{name} of {path}")
        for seed, run in row["runs"].items():
            job = study.job(config, int(seed), other_boxes=other_boxes)
            study.take(job, checked_result({k: v for k, v in run.items() if k != "folder"}))
