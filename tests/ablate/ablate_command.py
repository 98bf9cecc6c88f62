"""`ggnet ablate` as a user types it."""

from ggnet.cli import main


def ablate(table, out, *more):
    """The exit status of `ggnet ablate TABLE --out OUT ...`."""
    return main(["ablate", table, "--out", str(out), *map(str, more)])
