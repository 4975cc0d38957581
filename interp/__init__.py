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
    print(interp.explain(interp.ablate, model, pairs, "heads"))   # what is re-run, what reused

Nouns: a *Site* is the address of an activation ("23.3", "12.mlp"); *Pairs* are prompts aligned
token by token; a *Metric* gives one float per example; *Results* is a long table with provenance.
Every method writes a list of interventions and one engine runs the list.
"""

from interp import datasets, figures, probing, runs
from interp.causal import ablate, complement, evaluate, intervene, patch, path_patch
from interp.circuits import attention
from interp.core.edges import Edge
from interp.core.errors import InterpError
from interp.core.metrics import Metric
from interp.core.pairs import Pairs
from interp.core.results import Results
from interp.core.scores import Scores
from interp.core.sites import Site
from interp.engine import interventions
from interp.engine.collect.capture import capture
from interp.engine.collect.captured import Captured
from interp.engine.collect.means import MeanReference
from interp.engine.explain import explain
from interp.models import Model, load

__all__ = [
    "Captured",
    "Edge",
    "InterpError",
    "MeanReference",
    "Metric",
    "Model",
    "Pairs",
    "Results",
    "Scores",
    "Site",
    "ablate",
    "attention",
    "capture",
    "complement",
    "datasets",
    "evaluate",
    "explain",
    "figures",
    "intervene",
    "interventions",
    "load",
    "patch",
    "path_patch",
    "probing",
    "runs",
]
