"""Which parts do it: every method writes interventions, one engine runs them.

| name | question |
| --- | --- |
| `evaluate` | does the model do the task at all |
| `ablate`, `patch`, `path_patch` | what does each part, activation or path do: measured |
| `intervene`, `complement` | interventions of one's own; what is not in a set |
| `generate` | what does it then say: texts under interventions |
| `applied` | interventions that stay while others' code runs the model |
| `attribute`, `exact`, `verify` | all parts at once, estimated; some measured; do they agree |
| `knock_out`, `beside_random` | heads taken out together, beside random sets of heads |
| `compare` | the same sweep on two models: what differs, by how much of the behaviour |
| `recovery` | how well a ranking finds a circuit that is known |
"""

from typing import TYPE_CHECKING

from interp import moved
from interp.causal.ablation import ablate
from interp.causal.applying import applied
from interp.causal.compare import Comparison, compare
from interp.causal.evaluation import evaluate
from interp.causal.generating import generate
from interp.causal.intervening import intervene
from interp.causal.knockout import beside_random, knock_out
from interp.causal.patching import patch
from interp.causal.paths import path_patch
from interp.causal.ranking.attribution import attribute
from interp.causal.ranking.exact import exact
from interp.causal.ranking.recovery import recovery
from interp.causal.ranking.verification import verify
from interp.causal.targets import complement

__all__ = [
    "Comparison",
    "ablate",
    "applied",
    "attribute",
    "beside_random",
    "compare",
    "complement",
    "evaluate",
    "exact",
    "generate",
    "intervene",
    "knock_out",
    "patch",
    "path_patch",
    "recovery",
    "verify",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return moved.name(__name__, name)
