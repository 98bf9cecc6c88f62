"""`python -m ggnet`, which is what torchrun starts."""

from ggnet.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
