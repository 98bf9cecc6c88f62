"""Datasets: annotation files, images, augmentation, training targets, batches."""
