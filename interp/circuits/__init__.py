"""Which circuit it is: found edge by edge or from a ranking, run by itself, and proved.

| name | question |
| --- | --- |
| `top_circuit`, `acdc`, `acdc_sweep` | from a ranking, or edge by edge, to a `Circuit` |
| `run_circuits`, `faithfulness`, `faithfulness_curve` | what a circuit does by itself |
| `completeness`, `minimality` | does anything outside take its place; does every part matter |
| `random_circuits`, `null_test`, `stability` | what chance does; would other prompts choose it |
| `fit_optimal` | constants under which a circuit loses least |
"""

from interp.circuits.discovery.acdc import acdc as acdc
from interp.circuits.discovery.acdc import acdc_sweep as acdc_sweep
from interp.circuits.discovery.top import top_circuit as top_circuit
from interp.circuits.proof.completeness import completeness as completeness
from interp.circuits.proof.completeness import minimality as minimality
from interp.circuits.proof.curves import faithfulness_curve as faithfulness_curve
from interp.circuits.proof.faithfulness import faithfulness as faithfulness
from interp.circuits.proof.nulls import null_test as null_test
from interp.circuits.proof.nulls import random_circuits as random_circuits
from interp.circuits.proof.nulls import stability as stability
from interp.circuits.proof.optimal import fit_optimal as fit_optimal
from interp.circuits.proof.run import run_circuits as run_circuits
