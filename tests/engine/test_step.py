"""What a step tells on the host."""

import math

import pytest
import torch

from ggnet.engine.distributed import join_workers
from ggnet.engine.step import Losses, StepReport

INF = math.inf


@pytest.mark.parametrize(
    ("total", "term", "norm", "not_finite", "loss_not_finite"),
    [
        (2.0, 1.0, 3.0, False, False),
        (INF, 1.0, 3.0, True, True),  # the total alone decides
        (2.0, math.nan, 3.0, False, False),
        (2.0, 1.0, INF, True, False),
        (-INF, 1.0, math.nan, True, True),
    ],
)
def test_what_is_not_finite(total, term, norm, not_finite, loss_not_finite):
    losses = Losses.of(torch.tensor(total), {"size": torch.tensor(term)})
    with join_workers("cpu") as worker:
        report = StepReport(
            worker, "step 1", ["a"], losses, torch.tensor(norm), stop=False, save=True
        )
        assert not report.is_late
        found = report.read()
    assert (found.not_finite, found.loss_not_finite) == (not_finite, loss_not_finite)
    assert (found.stop, found.save) == (False, True)
    assert found.losses == pytest.approx({"total": total, "size": term}, nan_ok=True)
    assert report.not_finite == not_finite
