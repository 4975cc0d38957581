"""The circuit of indirect objects: found on half of the templates, proven on the other, and named.

"Mary and John went to the market, and John gave a book to" -> " Mary". When the circuit is proved,
its heads are put into the roles that Wang et al. (2022) found in GPT-2 small, by what they do and
not by their index (`interp.circuits.find_roles`): where they look, and by which way that helps.
Last, the heads of each role are taken out of the circuit and of the model.

    python -m experiments.ioi_circuit                 # SmolLM2-135M, 15 minutes on two cores
    python -m experiments.ioi_circuit --size smoke
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
from matplotlib.figure import Figure

import interp
from experiments import _circuit
from experiments._shared import Words, experiment
from interp.circuits import Role, Study, find_roles
from interp.circuits.roles import Roles
from interp.circuits.study import Proof
from interp.core.tables.results import Results
from interp.figures.curves import curves
from interp.runs import Run

CORRUPTION = {
    "abc": "three unrelated names in place of the three",
    "swap": "the indirect object in place of the subject's second mention",
}
ASKED = {"end": ("io", "s1", "s2"), "s2": ("s1", "s1+1"), "s1+1": ("s1",)}
ROLES = (
    Role("name mover", ("end", "io"), "logits"),
    Role("negative name mover", ("end", "io"), "logits", sign=1),
    Role("S-inhibition", ("end", "s2"), "queries"),
    Role("subject suppressor", ("end", "s2"), "logits"),
    Role("induction", ("s2", "s1+1"), "model"),
    Role("duplicate token", ("s2", "s1"), "model"),
    Role("previous token", ("s1+1", "s1"), "model"),
)
GPT2 = {
    "name mover": 11,  # 3, and 8 that are backups
    "negative name mover": 2,
    "S-inhibition": 4,
    "induction": 4,
    "duplicate token": 3,
    "previous token": 2,
}
"""How many heads of GPT-2 small are said to be of it (Wang et al. 2022)."""
SHOWN = 4
"""Heads of a role that the summary names and the figure shows, by attention."""
words = Words(__file__)


@dataclass(frozen=True, kw_only=True)
class Config(_circuit.Config):
    """What is run.

    Attributes:
        prompts: prompt pairs; a multiple of 40 balances templates and orders.
        corruption: of `interp.datasets.ioi`.
    """

    sizes: ClassVar = {
        "smoke": {"prompts": 4},
        "default": {"prompts": 40},
        "full": {"prompts": 200},
    }
    corruption: Literal["abc", "swap"] = "abc"


@experiment("ioi_circuit")
def run(run: Run, config: Config) -> tuple[Results, str]:
    """How the circuit did beside random ones."""
    model = interp.load(config.model)

    def further(study: Study, proof: Proof) -> str:
        roles = find_roles(study, proof, ROLES, asked=ASKED)
        _circuit.draw(study, proof, roles.of)
        draw(run, roles)
        return said(roles, _circuit.word(study))

    return _circuit.studied(
        *(run, config, further),
        model=model,
        pairs=interp.datasets.ioi(
            model, n=config.prompts, seed=config.seed, corruption=config.corruption
        ),
        task="indirect object identification",
        corruption=CORRUPTION[config.corruption],
    )


def draw(run: Run, roles: Roles) -> None:
    """What each role carries, and where its heads look."""
    if roles.table.empty:
        return
    order = [role.name for role in ROLES]
    carried = roles.carried.sort_values("without", key=lambda c: c.map(order.index))
    axes = {"xlabel": "role taken out of", "ylabel": "faithfulness lost"}
    run.figure("without-roles", curves(carried, x="without", hue="of", **axes), carried)
    run.figure("roles", looks_figure(roles.table), roles.table)


def looks_figure(table: pd.DataFrame) -> Figure:
    """Attention of each head to what its role looks at."""
    drawn = table.rename(columns={"attention": "value"})[["site", "role", "value", "low", "high"]]
    drawn = drawn.groupby("role", sort=False).head(SHOWN)
    return curves(drawn, x="site", hue="role", xlabel="head", ylabel="attention where it looks")


def said(roles: Roles, word: str) -> str:
    """Which roles there are, beside GPT-2's, and what each carries."""
    lines = []
    for role in ROLES:
        mine = roles.table[roles.table["role"] == role.name]
        without = roles.carried[roles.carried["without"] == role.name]
        shown = mine.head(SHOWN).assign(by=words(f"by {role.through}"))
        more = [words("more", n=len(mine) - SHOWN)] if len(mine) > SHOWN else []
        lines.append(
            words(
                "role",
                name=role.name,
                query=role.looks[0].upper(),
                key=role.looks[1].upper(),
                gpt2=words("known" if role.name in GPT2 else "new", n=GPT2.get(role.name)),
                heads=words(
                    "none" if mine.empty else "some",
                    n=len(mine),
                    holds=int(mine["holds"].sum()),
                    shown=" and ".join([words.each("head", shown), *more]),
                    carried=words.each("carried", without, by=" and "),
                ),
            )
        )
    heads = {"heads": len(roles.heads), "named": len(roles.of)}
    unnamed = heads["heads"] - heads["named"]
    return "\n".join(
        [words("roles", word=word, **heads), "", *lines, words("unnamed", unnamed=unnamed)]
    )


def shown(run: Run) -> list[pd.DataFrame]:
    """The heads of each role, if there is a circuit."""
    table = run.folder / "figures" / "roles.csv"
    return [pd.read_csv(table, dtype={"site": str})] if table.exists() else []
