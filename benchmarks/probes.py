"""Probing beside its peers; each case in a file of its own, `probes_<case>.py`.

    python benchmarks/probes.py --json benchmarks/probes.json
    python benchmarks/probes.py --cases collect --words 1000 --repeats 1

A row has `case`, `ours_s`, `peer_s` and `ratio`, the peer's time over ours, and what the case adds.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import probes_collect
import probes_fit
import probes_pos
import tyro

Case = Literal["collect", "fit", "pos"]


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        tagged: models of the case `pos`.
        words: of UD EWT that are collected; other cases have their own numbers.
        peers: layers that scikit-learn fits, of 31; its time is scaled to all.
    """

    json: Path | None = None
    cases: tuple[Case, ...] = ("collect", "fit", "pos")
    model: str = "smollm2-135m"
    tagged: tuple[str, ...] = ("smollm2-135m", "minilm-l6")
    threads: int = 2
    repeats: int = 5
    words: int = 4_000
    peers: int = 7


def run(case: Case, options: Options) -> list[dict[str, Any]]:
    """The rows of a case."""
    match case:
        case "collect":
            return [
                probes_collect.measure(
                    options.model,
                    words=options.words,
                    repeats=options.repeats,
                    threads=options.threads,
                )
            ]
        case "fit":
            return [
                probes_fit.measure(
                    options.model,
                    threads=options.threads,
                    peers=options.peers,
                    repeats=min(3, options.repeats),
                )
            ]
        case "pos":
            return [probes_pos.measure(name) for name in options.tagged]


def main(options: Options) -> None:
    for case in options.cases:
        rows = run(case, options)
        print(json.dumps(rows, indent=1))
        if options.json:
            known = json.loads(options.json.read_text()) if options.json.exists() else []
            names = {row["case"] for row in rows}
            known = [row for row in known if row["case"] not in names]
            options.json.write_text(json.dumps([*known, *rows], indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
