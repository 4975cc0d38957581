"""Which parts do it: every method writes interventions, one engine runs them.

| name | question |
| --- | --- |
| `evaluate` | does the model do the task at all |
| `ablate`, `patch`, `path_patch` | what does each part, activation or path do: measured |
| `intervene`, `complement` | interventions of one's own; what is not in a set |
| `attribute`, `exact`, `verify` | all parts at once, estimated; some measured; do they agree |
| `knock_out`, `beside_random` | heads taken out together, beside random sets of heads |
| `recovery` | how well a ranking finds a circuit that is known |
"""

from interp.causal.ablation import ablate as ablate
from interp.causal.evaluation import evaluate as evaluate
from interp.causal.intervening import intervene as intervene
from interp.causal.knockout import beside_random as beside_random
from interp.causal.knockout import knock_out as knock_out
from interp.causal.patching import patch as patch
from interp.causal.paths import path_patch as path_patch
from interp.causal.ranking.attribution import attribute as attribute
from interp.causal.ranking.exact import exact as exact
from interp.causal.ranking.recovery import recovery as recovery
from interp.causal.ranking.verification import verify as verify
from interp.causal.targets import complement as complement
