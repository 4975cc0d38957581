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
    adapted = interp.load("smollm2-135m", adapter="lora/")         # merged; or a model in memory
    interp.compare(model, adapted, lambda m: interp.ablate(m, pairs, "heads")).summary()
    texts = interp.generate(model, ["Yesterday she"], {"steered": [...]}, n=20)   # what it says
    scores = interp.attribute(model, pairs)                   # every edge, estimated at once
    circuit = interp.circuits.top_circuit(scores, size=500)     # a Circuit, to be proved
    print(interp.explain(interp.ablate, model, pairs, "heads"))   # what is re-run, what reused
    large = interp.shape_of("meta-llama/Llama-3.1-70B")           # to be explained, without weights

Nouns: a *Site* is the address of an activation ("23.3", "12.mlp"); *Pairs* are prompts aligned
token by token; a *Metric* gives one float per example; *Results* is a long table with provenance.
Every method writes a list of interventions and one engine runs the list.
"""

import lazy_loader

from interp.moved import install as _old_names

# imported when it is first asked for, from where the stub beside this file says
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_old_names()
