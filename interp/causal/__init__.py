"""Which parts do it, and which circuit: every method writes interventions, one engine runs them.

| name | question |
| --- | --- |
| `evaluate` | does the model do the task at all |
| `ablate`, `patch`, `path_patch` | what does each part, activation or path do: measured |
| `intervene`, `complement` | interventions of one's own; what is not in a set |
| `attribute`, `exact`, `verify` | all parts at once, estimated; some measured; do they agree |
| `top_circuit`, `acdc`, `acdc_sweep` | from a ranking, or edge by edge, to a `Circuit` |
| `run_circuits`, `faithfulness`, `faithfulness_curve` | what a circuit does by itself |
| `completeness`, `minimality` | does anything outside take its place; does every part matter |
| `random_circuits`, `null_test`, `stability` | what chance does; would other prompts choose it |
| `fit_optimal` | constants under which a circuit loses least |
| `recovery` | how well a ranking finds a circuit that is known |
"""

from interp.causal.ablation import ablate as ablate
from interp.causal.acdc import acdc as acdc
from interp.causal.acdc import acdc_sweep as acdc_sweep
from interp.causal.attribution import attribute as attribute
from interp.causal.circuits import run_circuits as run_circuits
from interp.causal.completeness import completeness as completeness
from interp.causal.completeness import minimality as minimality
from interp.causal.curves import faithfulness_curve as faithfulness_curve
from interp.causal.discovery import top_circuit as top_circuit
from interp.causal.effects import exact as exact
from interp.causal.evaluation import evaluate as evaluate
from interp.causal.faithfulness import faithfulness as faithfulness
from interp.causal.intervening import intervene as intervene
from interp.causal.nulls import null_test as null_test
from interp.causal.nulls import random_circuits as random_circuits
from interp.causal.nulls import stability as stability
from interp.causal.optimal import fit_optimal as fit_optimal
from interp.causal.patching import patch as patch
from interp.causal.paths import path_patch as path_patch
from interp.causal.recovery import recovery as recovery
from interp.causal.targets import complement as complement
from interp.causal.verification import verify as verify
