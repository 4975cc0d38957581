"""Texts: what a model says under each set of interventions, prompt by prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.core.door.door import door
from interp.core.door.taken import Seed
from interp.core.errors import ResultsError
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.core.tables.said import NAMED, Metric, column, marked, resolved
from interp.core.tables.table import Table

COLUMNS = [
    *("model", "intervention", "control", "example", "cluster", "prompt", "text", "tokens"),
    *("length", "ended", "log_prob", "plain_log_prob", "log_probs", "plain_log_probs"),
    *("differs", "distance"),
]
Step = Literal["log_probs", "plain_log_probs", "kl"]


@door
@dataclass(frozen=True, eq=False, repr=False)
class Texts(Table):
    """What was said: one row for each set of interventions and prompt. Made by `interp.generate`.

    Attributes:
        frame: `intervention`: the name of the set; `control`: of a random direction, the set that
            it stands beside, "" otherwise. `tokens`: ids, the one that ended the text with them;
            `ended`: "stop" or "n". `log_probs`, `plain_log_probs`: of each token under the
            interventions, and of the plain model that reads the same text; `log_prob`,
            `plain_log_prob`: their sums. `kl`, where it was asked for: from the plain model's
            distribution to that under the interventions, at each step, in nats. `differs`: the
            first token, counted from 0, that is not the plain text's; NaN where none. `distance`:
            tokens to put in, leave out or exchange to come to the plain text.
        provenance: `plain` is the name of the set without interventions.
    """

    columns = COLUMNS
    numbers = ("example", "length", "log_prob", "plain_log_prob", "differs", "distance")
    cell = ("intervention", "example")
    ranked = ("distance",)
    drawn = "distance"

    @property
    def plain(self) -> str:
        """The name of the set without interventions."""
        return str(self.provenance.get("plain", "plain"))

    @door
    def text(self, intervention: str, example: int = 0) -> str:
        """What was said to one prompt.

        Raises:
            ResultsError: no such row.
        """
        rows = self.frame["intervention"] == intervention
        found = self.frame[rows & (self.frame["example"] == example)]
        if not len(found):
            known = [*self.frame["intervention"].unique()]
            raise ResultsError(
                f"the table has no text of {intervention!r} for prompt {example}; sets are {known}."
            )
        return str(found["text"].iloc[0])

    @door
    def score(
        self, metrics: str | Sequence[str] | Mapping[str, Metric] = ("perplexity", "distinct_2")
    ) -> Results:
        """Numbers of the texts: their means, intervals by cluster and paired tests are a summary's.

            texts.score(["perplexity", "distance"]).summary()
            texts.score({"says tea": r"\\btea\\b", "mood": classifier}).summary()

        Args:
            metrics: names (`log_prob`, `plain_log_prob`, `perplexity` under the plain model,
                `distinct_1`, `distinct_2`, `distinct_3`, `length`, `changed`, `distance`, `kl`), or
                a mapping from names of one's own to a regular expression (1 where it is found), a
                function of the text, or one of those names.

        Returns:
            One row for each metric, set and prompt. `base` is the plain text's number, `effect` the
            difference from it; of the plain texts alone, `value` only.

        Raises:
            ResultsError: no such metric, one that is no number, or texts that lack prompts.
        """
        asked = resolved(metrics)
        if "kl" not in self.frame and NAMED["kl"] in asked.values():
            raise ResultsError(
                "these texts were made without divergences; ask for them: "
                "interp.generate(..., by_step='kl')."
            )
        frame = self.frame.sort_values("example", kind="stable")
        names = [*self.frame["intervention"].unique()]
        examples = np.unique(frame["example"])
        parts = {name: frame[frame["intervention"] == name] for name in names}
        if odd := [n for n, part in parts.items() if not np.array_equal(part["example"], examples)]:
            raise ResultsError(
                f"{odd[0]!r} has texts of {len(parts[odd[0]])} of the {len(examples)} prompts, so "
                "that nothing is paired. Choose sets and prompts that have each other's texts."
            )
        shown = [name for name in names if name != self.plain] or names
        values = {m: {name: column(parts[name], of) for name in names} for m, of in asked.items()}
        for metric, of in values.items():
            for name, each in of.items():
                if np.isnan(each).any():
                    at = int(np.isnan(each).argmax())
                    raise ResultsError(
                        f"{metric!r} is NaN for {name!r}, prompt {examples[at]} "
                        f"({parts[name]['text'].iloc[at][:60]!r}): likely the text is too short. "
                        "Leave such prompts out (texts.query), or take another metric."
                    )
        nothing = np.full(len(examples), np.nan)
        base = [
            of[self.plain] if shown != [self.plain] and self.plain in of else nothing
            for of in values.values()
        ]
        first = parts[names[0]]
        units = {kind: first[kind].tolist() for kind in ("cluster", "crossed") if kind in first}
        cells = {
            "method": "generate",
            "site": shown * len(values),
            "kind": "set",
            "metric": [metric for metric in values for _ in shown],
            "engine": str(self.provenance.get("engine", "")),
        }
        value = np.stack([np.stack([of[name] for name in shown]) for of in values.values()])
        note = {k: v for k, v in self.provenance.items() if k != "plain"}
        return Results.of(
            cells, value, units=units, provenance=note, base=np.stack(base)[:, None, :]
        )

    @door
    def by_step(self, of: Step = "log_probs", *, seed: Seed = 0) -> pd.DataFrame:
        """A number at each step, averaged over the texts that have come so far.

        Args:
            of: a column with a number for each token.
            seed: of the intervals.

        Returns:
            `intervention`, `step` (from 0), `mean`, `low`, `high` (95 % over clusters), `n`,
            `clusters`.

        Raises:
            ResultsError: divergences that were not asked for.
        """
        if of not in self.frame:
            raise ResultsError(
                "these texts were made without divergences; ask for them: "
                "interp.generate(..., by_step='kl')."
            )
        rows: list[dict[str, Any]] = []
        for name, part in self.frame.groupby("intervention", sort=False):
            for step in range(int(part["length"].max())):
                there = part[part["length"] > step]
                values = np.array([each[step] for each in there[of]], dtype=float)
                units = pd.factorize(there["cluster"])[0]
                low, high = stats.mean_interval(values[None], units, seed=seed)
                found = {"mean": values.mean(), "low": low[0], "high": high[0], "n": len(values)}
                rows.append(
                    {"intervention": name, "step": step, **found, "clusters": units.max() + 1}
                )
        return pd.DataFrame(rows)

    @door
    def figure(self, metrics: str | Sequence[str] | Mapping[str, Metric] = "perplexity") -> Any:
        """`interp.figures.bars` of what each set does to a number of the texts."""
        from interp.figures.bars import bars  # the one way up, for whoever asks the table itself

        return bars(self.score(metrics))

    def _counted(self) -> str:
        sets, prompts = self.frame["intervention"].nunique(), self.frame["example"].nunique()
        return f"{sets} sets of interventions in {prompts} prompts"

    def _shown(self) -> pd.DataFrame:
        shown = ["intervention", "example", "text", "length", "log_prob", "plain_log_prob"]
        table = self.frame[[*shown, "differs", "distance"]].head(20)
        return table.assign(
            text=[text if len(text) < 80 else f"{text[:77]}..." for text in table["text"]]
        )

    def _repr_html_(self) -> str:
        """Prompt by prompt, what does not stand in the plain text marked."""
        plain = self.frame[self.frame["intervention"] == self.plain]
        texts: Mapping[int, str] = dict(zip(plain["example"], plain["text"], strict=True))
        lines: list[str] = []
        for example, part in self.frame.groupby("example", sort=True):
            if len(lines) > 60:
                lines.append("<tr><td colspan=4>...</td></tr>")
                break
            prompt = escape(str(part["prompt"].iloc[0])).replace("\n", "<br>")
            lines.append(f"<tr><th colspan=4 style='text-align:left'>{example}: {prompt}</th></tr>")
            for row in part.to_dict("records"):
                said = marked(row["text"], texts.get(example, row["text"]))
                each = (row["log_prob"] / row["length"], row["plain_log_prob"] / row["length"])
                lines.append(
                    f"<tr><td>{escape(row['intervention'])}</td>"
                    f"<td style='text-align:left'>{said}</td>"
                    + "".join(f"<td>{x:.3g}</td>" for x in each)
                    + "</tr>"
                )
        head = "<tr><th></th><th>text</th><th>log-prob a token</th><th>of the plain model</th></tr>"
        model = escape(str(self.provenance.get("model", "")))
        notes = "".join(f"<p>{escape(line)}</p>" for line in self._notes())
        return (
            f"<p><b>{self._counted()}</b>, {model}</p><table>{head}{''.join(lines)}</table>{notes}"
        )

    def _notes(self) -> list[str]:
        used = self.provenance.get("means")
        return [f"Means at what is said: {used}."] if used else []
