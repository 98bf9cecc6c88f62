"""Readers of published annotation formats, for `ggnet.data.convert`."""
