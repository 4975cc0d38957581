"""One question each: `python -m experiments.pos`, with `--size smoke | default | full`."""
