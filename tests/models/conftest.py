import numpy as np
import pytest
import torch

from ggnet.data.batch import Batch
from ggnet.data.preprocess import ImageMeta

OBJECTS, VERBS = 4, 5


@pytest.fixture
def make_batch():
    """A function that makes a batch of random images and consistent random targets."""

    def make(images=2, size=32, objects=6, interactions=7, negatives=9, seed=0) -> Batch:
        random = torch.Generator().manual_seed(seed)
        cells = size // 4

        def points(count: int, channels: int) -> torch.Tensor:
            limits = (images, channels, cells, cells)
            columns = [torch.randint(high, (count,), generator=random) for high in limits]
            return torch.stack(columns, dim=1).int()

        def radii(count: int) -> torch.Tensor:
            return torch.randint(0, 3, (count,), generator=random).int()

        def whole(count: int) -> torch.Tensor:
            return torch.randint(-3, 4, (count, 2), generator=random).float()

        return Batch(
            images=torch.randn(images, 3, size, size, generator=random),
            objects=points(objects, OBJECTS),
            object_radii=radii(objects),
            sizes=torch.rand(objects, 2, generator=random) * 8,
            centers_frac=torch.rand(objects, 2, generator=random),
            interactions=points(interactions, VERBS),
            interaction_radii=radii(interactions),
            human_offsets=whole(interactions),
            object_offsets=whole(interactions),
            hard_negatives=points(negatives, VERBS),
            meta=[
                ImageMeta(f"{index}.jpg", str(index), size, size, np.eye(2, 3))
                for index in range(images)
            ],
        )

    return make
