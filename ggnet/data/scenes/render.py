"""A scene as a picture: drawn at four times the size, then averaged, so that edges are smooth."""

import cv2
import numpy as np

from ggnet.data.scenes.backgrounds import background
from ggnet.data.scenes.layout import SIZE, Scene

_OVERSAMPLING = 4


def render(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8 RGB; what is lower in the picture is nearer and drawn later."""
    large = (size * _OVERSAMPLING,) * 2
    canvas = cv2.resize(background(size, rng), large, interpolation=cv2.INTER_LINEAR)
    for item in sorted(scene.items, key=lambda item: item.box[3]):
        for drawing in item.drawings:
            drawing.draw(canvas, large[0] / SIZE)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
