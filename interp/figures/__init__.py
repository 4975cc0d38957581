"""Figures: a table in, a matplotlib Figure out. Nothing is shown and nothing is saved here.

| figure | question |
| --- | --- |
| `heads` | which heads (and MLPs) do it |
| `bars` | how large and how sure is the effect of each site |
| `layers` | what can be read off each layer, beside its baselines |
| `relations`, `relation_bars` | which head carries which relation, beside a fixed offset |
| `beside` | several curves over layers, one panel under the other |
| `curves` | how it changes with length, temperature, or by name |
| `head_types` | which heads are of which type |
| `patches` | in which patches of an image is it, or do heads look |
| `positions` | in which layer and at which position is it |
| `attention` | where do these heads look |
| `pattern` | one head's attention on one prompt |
| `circuit` | which parts hang together, and by which edges |
| `faithfulness` | how much of the behaviour circuits of each size carry, beside random ones |
| `scatter` | does an estimate rank things as the exact value does |

Save with `figure.savefig(path)`, or with `Run.figure`, which puts the table beside it.
"""

from interp.figures.attention import attention as attention
from interp.figures.attention import pattern as pattern
from interp.figures.bars import bars as bars
from interp.figures.beside import beside as beside
from interp.figures.circuit import circuit as circuit
from interp.figures.curves import curves as curves
from interp.figures.faithfulness import faithfulness as faithfulness
from interp.figures.head_types import head_types as head_types
from interp.figures.heads import heads as heads
from interp.figures.layers import layers as layers
from interp.figures.patches import patches as patches
from interp.figures.positions import positions as positions
from interp.figures.relations import relation_bars as relation_bars
from interp.figures.relations import relations as relations
from interp.figures.scatter import scatter as scatter
