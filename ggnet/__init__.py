"""GGNet (Glance and Gaze, CVPR 2021): human-object interaction detection on fast open operators."""

__version__ = "0.1.0"
