"""interp: find out what the parts of a transformer do.

    model = interp.load("smollm2-135m")                      # a Model: bridge, facts, checks
    pairs = interp.datasets.ioi(model, n=64)                 # Pairs: clean and corrupt prompts
    interp.evaluate(model, pairs)                            # does it do the task at all?
    heads = interp.ablate(model, pairs, "heads")             # Results: which parts does it need?
    paths = interp.path_patch(model, pairs, senders="heads", receivers="logits")
    paths.summary(); paths.top(10); paths.grid()             # with intervals and tests
    interp.figures.heads(paths).savefig("ioi.pdf")
    acts = interp.capture(model, pairs, "layers", positions="end")   # acts["3.resid_post"]
    words = interp.probing.collect(model, interp.datasets.corpus("ud-ewt", split="dev"))
    kinds = interp.heads.head_types(model)                 # induction, previous token, ...
    scores = interp.attribute(model, pairs)                   # every edge, estimated at once
    circuit = interp.circuits.top_circuit(scores, size=500)     # a Circuit, to be proved
    print(interp.explain(interp.ablate, model, pairs, "heads"))   # what is re-run, what reused

Nouns: a *Site* is the address of an activation ("23.3", "12.mlp"); *Pairs* are prompts aligned
token by token; a *Metric* gives one float per example; *Results* is a long table with provenance.
Every method writes a list of interventions and one engine runs the list.
"""

from interp import causal as causal
from interp import circuits as circuits
from interp import datasets as datasets
from interp import figures as figures
from interp import heads as heads
from interp import probing as probing
from interp import runs as runs
from interp.causal import ablate as ablate
from interp.causal import attribute as attribute
from interp.causal import complement as complement
from interp.causal import evaluate as evaluate
from interp.causal import intervene as intervene
from interp.causal import patch as patch
from interp.causal import path_patch as path_patch
from interp.core.errors import InterpError as InterpError
from interp.core.metrics import Metric as Metric
from interp.core.parts.circuit import Circuit as Circuit
from interp.core.parts.edges import Edge as Edge
from interp.core.parts.sites import Site as Site
from interp.core.prompts.pairs import Pairs as Pairs
from interp.core.tables.attribution import Attribution as Attribution
from interp.core.tables.measures import Measures as Measures
from interp.core.tables.results import Results as Results
from interp.core.tables.scores import Scores as Scores
from interp.engine import interventions as interventions
from interp.engine.plain.captures.capture import capture as capture
from interp.engine.plain.captures.captured import Captured as Captured
from interp.engine.plain.means.means import MeanReference as MeanReference
from interp.engine.plan.explain import explain as explain
from interp.heads import attention as attention
from interp.models import Model as Model
from interp.models import load as load
from interp.moved import install as _old_names

_old_names()
