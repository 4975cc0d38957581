"""Circuits beside their peers; the cases stand in files of their own, `circuits_*.py`.

    python benchmarks/circuits.py --json benchmarks/circuits.json
    python benchmarks/circuits.py --cases copying --repeats 1

A row has `case`, `ours_s`, `peer_s` and `ratio`, the peer's time over ours, and what the case adds.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import circuits_acdc
import circuits_attribution
import circuits_copying
import circuits_typing
import tyro

Case = Literal["copying", "typing", "eap", "acdc", "eap-ig"]


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        peers: heads that the peer measures; its time is scaled to all.
        rows: of tokens, of the case `typing`.
        prompts: rows that the peer of `typing` is timed on; its time is scaled to all.
        kept: share of the edges that `acdc` keeps, by its threshold.
    """

    json: Path | None = None
    cases: tuple[Case, ...] = get_args(Case)
    model: str = "smollm2-135m"
    threads: int = 2
    repeats: int = 3
    peers: int = 6
    rows: int = 32
    prompts: int = 4
    kept: float = 0.05


def run(case: Case, options: Options) -> dict[str, Any]:
    """The row of a case."""
    match case:
        case "copying":
            return circuits_copying.measure(
                options.model,
                threads=options.threads,
                repeats=options.repeats,
                peers=options.peers,
            )
        case "typing":
            return circuits_typing.measure(
                options.model,
                rows=options.rows,
                threads=options.threads,
                repeats=options.repeats,
                prompts=options.prompts,
            )
        case "eap":
            return circuits_attribution.eap(
                options.model, threads=options.threads, repeats=options.repeats
            )
        case "acdc":
            return circuits_acdc.measure(
                prompts=8, kept=options.kept, threads=options.threads, repeats=options.repeats
            )
        case "eap-ig":
            return circuits_attribution.eap_ig(options.model, threads=options.threads)


def main(options: Options) -> None:
    for case in options.cases:
        row = run(case, options)
        print(json.dumps(row, indent=1))
        if options.json:
            known = json.loads(options.json.read_text()) if options.json.exists() else []
            known = [old for old in known if old["case"] != row["case"]]
            options.json.write_text(json.dumps([*known, row], indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
