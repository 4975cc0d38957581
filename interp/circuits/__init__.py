"""Which circuit it is: found edge by edge or from a ranking, run by itself, and proved.

| name | question |
| --- | --- |
| `top_circuit`, `acdc`, `acdc_sweep` | from a ranking, or edge by edge, to a `Circuit` |
| `run_circuits`, `faithfulness`, `faithfulness_curve` | what a circuit does by itself |
| `completeness`, `minimality` | does anything outside take its place; does every part matter |
| `random_circuits`, `null_test`, `stability` | what chance does; would other prompts choose it |
| `fit_optimal` | constants under which a circuit loses least |
| `Study`, `prove` | all of it: discovered on one half of the clusters, proved on the other |
| `Role`, `find_roles` | what the circuit's heads do: where they look, and how that acts |
"""

from typing import TYPE_CHECKING

from interp import moved
from interp.circuits.discovery.acdc import acdc, acdc_sweep
from interp.circuits.discovery.top import top_circuit
from interp.circuits.proof.completeness import completeness, minimality
from interp.circuits.proof.curves import faithfulness_curve
from interp.circuits.proof.faithfulness import faithfulness
from interp.circuits.proof.nulls import null_test, random_circuits, stability
from interp.circuits.proof.optimal import fit_optimal
from interp.circuits.proof.run import run_circuits
from interp.circuits.roles import Role, find_roles
from interp.circuits.study import Study, prove

__all__ = [
    "Role",
    "Study",
    "acdc",
    "acdc_sweep",
    "completeness",
    "faithfulness",
    "faithfulness_curve",
    "find_roles",
    "fit_optimal",
    "minimality",
    "null_test",
    "prove",
    "random_circuits",
    "run_circuits",
    "stability",
    "top_circuit",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return moved.name(__name__, name)
