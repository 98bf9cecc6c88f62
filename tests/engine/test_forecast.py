"""The line after the first steps."""

import pytest
import torch

from ggnet.engine.forecast import STEPS, WARM_UP, Forecast

CPU = torch.device("cpu")


def said(forecast, seconds, waited, stages, steps):
    lines = [forecast.add(seconds, waited, stages) for _ in range(steps)]
    return [line for line in lines if line]


def test_it_is_said_once_without_the_first_steps():
    forecast = Forecast(1000, 140, CPU, 2)
    assert not said(forecast, 60.0, 50.0, {}, WARM_UP)
    [line] = said(forecast, 0.6, 0.006, {"reading": 1.0}, 50)
    assert line.startswith("0.6 s a step: 10 min an epoch, 23 h for all 140 without evaluation; ")
    assert line.endswith("the network takes the time, images are waited for 1 % of it")
    assert "GiB of memory" in line


@pytest.mark.parametrize(
    ("seconds", "said_as"),
    [
        (0.1194, "119 s"),
        (0.12, "2 min"),
        (7.17, "120 min"),
        (7.2, "2 h"),
        (172.7, "48 h"),
        (172.9, "2 days"),
        (3000.0, "35 days"),
    ],
)
def test_times_are_told_in_a_unit_of_which_there_are_two(seconds, said_as):
    [line] = said(Forecast(1000, 1, CPU, 2), seconds, 0.0, {}, WARM_UP + 60)
    assert f": {said_as} an epoch" in line


def test_fast_steps_are_measured_for_some_seconds():
    forecast = Forecast(100, 10, CPU, 2)
    assert not said(forecast, 0.1, 0.0, {}, WARM_UP + STEPS)
    assert len(said(forecast, 0.1, 0.0, {}, 60)) == 1


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (
            {"reading": 8.0, "decoding": 1.0, "cropping": 1.0},
            ", reading (80 %) takes most of theirs",
        ),
        ({}, ""),
    ],
)
def test_who_waits_for_images_is_told_what_takes_them(stages, told):
    [line] = said(Forecast(100, 10, CPU, 3), 1.0, 0.4, stages, WARM_UP + STEPS)
    assert line.endswith(
        f"images are waited for 40 % of the time{told}: more data.workers (now 3) or a faster disk "
        "would help"
    )
