# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Find a circuit, and prove it
#
# A *circuit* is a set of edges of a model, from what writes into the residual stream (embedding,
# heads, MLPs) to what reads from it (queries, keys and values of heads, MLPs, logits). The claim is
# that it carries a behaviour: cut every other edge, and the behaviour stays. So there are two
# steps, and the second is no formality:
#
# 1. **Find**: score every edge, keep the best.
# 2. **Prove**: run the model with nothing else, on prompts that the search has not seen, beside
#    random circuits of the same size.
#
# We begin with a model that was written by hand, so that the right answer is known. Then SmolLM2
# on a task of Wang et al. (2022). It takes little more than a minute.

# %%
import warnings
from dataclasses import replace
from functools import partial

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bars are missed

import pandas as pd

import interp
from interp.causal import attribute, exact, recovery, verify
from interp.circuits import faithfulness, null_test, run_circuits, stability, top_circuit
from interp.models import compiled
from interp.models.compiled.construction import Key

pd.set_option("display.precision", 2)
by_hand = interp.load("compiled/induction")
pd.Series(compiled.roles("induction"), name="role").to_frame()

# %% [markdown]
# ## A model that was written by hand
#
# It does *induction*: after `... A B ... A` it says `B`. Beside each prompt stands a **corrupt**
# one, here with fresh letters in the same arrangement. To cut an edge is to let its reader see what
# the writer says in the corrupt prompt. What is the same in both cannot be found: the corruption is
# a part of the question.

# %%
pairs = compiled.pairs("induction", corruption="fresh", n=64, seed=0)
letters = compiled.construction("induction").vocabulary
for i in range(3):
    clean, corrupt = map(" ".join, pairs.strings[i])
    right, wrong = letters[int(pairs.correct[i])], letters[int(pairs.wrong[i])]
    print(f"{clean:24} -> {right}        corrupt: {corrupt:24} -> {wrong}")

# %% [markdown]
# ### Measure every edge
#
# The model has few edges, so each can be cut by itself. `score` is what that does to the logit
# difference between the right letter and the wrong one: below 0 the edge helps.

# %%
measured = exact(by_hand, pairs, "edges")
print(len(measured), "edges")
measured.top(7)[["site", "score", "low", "high"]]

# %% [markdown]
# Five edges do something and all others do nothing at all. They spell out the algorithm: head 0.0
# copies the previous letter from the embedding (`embed -> 0.kv0.v`), the induction head finds by it
# the place after the earlier A (`embed -> 1.0.q` and `0.0 -> 1.kv0.k`), reads B there
# (`embed -> 1.kv0.v`) and says it (`1.0 -> logits`).
#
# ### Estimate every edge
#
# A large model has too many edges for that. **Edge attribution patching** (EAP) estimates all of
# them from two forwards and one backward, by a gradient: the change of what the writer says, times
# how much the metric would move.

# %%
scores = {
    "EAP": attribute(by_hand, pairs, method="eap"),
    "EAP-IG": attribute(by_hand, pairs, method="eap-ig-inputs", steps=20),
    "measured": measured,
}
names = list(measured.top(7)["site"])
beside = {name: found.frame.set_index("site")["score"].loc[names] for name, found in scores.items()}
pd.DataFrame(beside)

# %% [markdown]
# EAP sees two of the five. The heads of this model attend to one place wholly, a softmax that is
# *saturated*: a small step towards the corrupt prompt changes nothing, so the gradient is 0, and
# the whole step changes everything. **EAP-IG** averages the gradient over steps on the way from the
# corrupt prompt's embedding to the clean one's (Hanna et al. 2024), and finds all five. Its numbers
# are not right; their order is.
#
# Where the truth is known, a ranking can be graded: does each true edge stand above each false one?
# 0.5 is chance. (`auroc` over all thresholds; `r_precision`: how many of the first five are true.)

# %%
truth = compiled.truth("induction")[Key("resample", "fresh", "all positions")]
graded = {name: recovery(found, truth) for name, found in scores.items()}
columns = ["auroc", "average_precision", "r_precision", "n_true", "n"]
pd.DataFrame({name: {c: getattr(found, c) for c in columns} for name, found in graded.items()}).T

# %% [markdown]
# ### The circuit, alone
#
# The proof of a circuit is to run it alone, with every other edge cut. The logit difference of the
# whole model is 20. We run the five edges of EAP-IG, and the two of EAP, and we cut in two ways: to
# the value in the corrupt prompt (`resample`), and to the mean over many corrupt prompts (`mean`).

# %%
sets = {
    "EAP-IG, 5 edges": top_circuit(scores["EAP-IG"], size=5),
    "EAP, 2 edges": top_circuit(scores["EAP"], size=2, closure="none"),
}
sets["no edges"] = sets["EAP-IG, 5 edges"].holding(frozenset())
alone = {
    ablation: run_circuits(
        by_hand, pairs, {name: replace(kept, ablation=ablation) for name, kept in sets.items()}
    )
    for ablation in ("resample", "mean")
}
values = {how: out.summary().set_index("site")["value"] for how, out in alone.items()}
pd.DataFrame(values).round(2)

# %% [markdown]
# The five edges do all that the model does. But cut by resampling, the two edges of EAP do it too!
# Head 1.0's query and its key are then *both* those of the corrupt prompt, and agree with each
# other about the place. Cut to the mean they do not, and the two edges do nothing. So faithfulness
# says that a circuit is enough under one way of cutting, not that it is all there is, nor the only
# one. It is always stated with its ablation.
#
# Here the five are the truth:

# %%
found = sets["EAP-IG, 5 edges"]
assert found.parts == truth
interp.figures.circuit(found, scores["EAP-IG"], facts=by_hand.facts, width="column")

# %% [markdown]
# And another corruption? Where only `B` is another letter, the search finds the half of the circuit
# that carries `B`; where only the first `A` is another, the half that finds the place. Neither is
# wrong. *A circuit is of a model, a task and a corruption.*

# %%
for corruption in ("answer", "first", "fresh"):
    rows = compiled.pairs("induction", corruption=corruption, n=64, seed=0)
    scored = exact(by_hand, rows, "edges")
    print(f"{corruption:7}", ", ".join(scored.frame["site"][scored.scores < -1]))

# %% [markdown]
# So much where everything is known. Now a model that was trained.
#
# ## SmolLM2-135M: who gets the book?
#
# "Then, Mary and John went to the market, and John gave a book to" asks for the *indirect object*,
# " Mary". The corrupt prompts have three unrelated names. The metric is the logit difference
# between the two names. **First the behaviour**: what the model does not do has no circuit. And
# **two halves**, which share no template: one to find, one to prove.

# %%
model = interp.load("smollm2-135m", device="cpu")
prompts = interp.datasets.ioi(model, n=16)
finding, proving = prompts.split()
print(" ".join(prompts.strings[0][0]), "->", *model.show(prompts.correct[:1].tolist()))
interp.evaluate(model, prompts).summary()[["position", "metric", "value", "low", "high"]]

# %% [markdown]
# It is right on all clean prompts and guesses on the corrupt ones. (`position` says which.)
#
# ### Find
#
# Eight prompts, with EAP and EAP-IG. There are many more edges now:

# %%
scores = {
    "EAP": attribute(model, finding, method="eap"),
    "EAP-IG": attribute(model, finding, method="eap-ig-inputs", steps=3),
}
print(f"{len(scores['EAP']):,} edges")
scores["EAP-IG"].top(8)[["site", "score", "low", "high"]]

# %% [markdown]
# Most goes through the first MLP, which rewrites every word before any head reads it. Then come
# heads of the layers 23 to 29 that speak to the logits, some of them *against* the right name (a
# positive score): in GPT-2 such heads are called negative name movers.
#
# These are estimates. Are they right? We measure the eight largest, and eight edges at random.

# %%
checked = verify(scores["EAP-IG"], model, finding, k=8)
interp.figures.scatter(
    checked.table,
    x="estimate",
    y="exact",
    hue="drawn",
    line="identity",
    xlabel="estimate (EAP-IG)",
    ylabel="effect of cutting the edge",
)

# %% [markdown]
# Near the line, so the ranking may be trusted where it counts. A circuit of each size is *grown*
# from it: from the logits backward, always the best edge whose reader is in the circuit already, so
# that no edge leads nowhere.
#
# How many edges? That is a choice too, so it is made here, on the prompts of the search.
# **Faithfulness** is 0 if a circuit, alone, does no better than a model with everything cut, and 1
# if it does what the whole model does.

# %%
shares = (0.002, 0.01, 0.05, 0.2)
grown = {
    f"{name} {share:g}": top_circuit(found, fraction=share)
    for name, found in scores.items()
    for share in shares
}
own = faithfulness(model, finding, grown, metric="logit_diff").summary()
own[["circuit", "size", "faithfulness", "low", "high"]]

# %% [markdown]
# EAP-IG with four times the 5 % gains next to nothing. So it is the circuit of 5 % that has to be
# proved.
#
# ### Prove
#
# On the other templates. All sizes are drawn, but one was chosen, and it was not chosen here.

# %%
tried = faithfulness(model, proving, grown)
table = tried.summary()
table[["method", "fraction"]] = table["circuit"].str.rsplit(n=1, expand=True)
table = table.assign(fraction=table["fraction"].astype(float), value=table["faithfulness"])
by_logits = table[table["metric"] == "logit_diff"]
interp.figures.faithfulness(by_logits)

# %% [markdown]
# With 5 % of the edges EAP-IG comes near the whole model, nearer than on its own prompts; EAP,
# whose gradients are taken at the clean prompt alone, does not. It is not a small circuit, and the
# intervals are wide: eight prompts are few. More edges are not always better, for those that come
# later may work against the right name. And what would *chance* do? Random circuits with as many
# edges into each layer:

# %%
kept = grown["EAP-IG 0.05"]
null = null_test(model, proving, kept, n=20, metric=["logit_diff", "kl"])
columns = ["metric", "faithfulness", "null", "low", "high", "percentile", "p"]
null.summary()[columns].round(3)

# %% [markdown]
# Nothing at all, so chance is an easy opponent, and EAP a better one. (20 random circuits give no p
# below 1/21.) `kl` asks for more than two names: how far is the circuit's prediction of *every*
# word from the model's? That is where a circuit shows that it was made for the metric. Take only
# edges that help, instead of the largest of either sign:

# %%
helpful = {"edges that help": top_circuit(scores["EAP-IG"], fraction=0.05, by="signed")}
both = faithfulness(model, proving, {"largest edges": kept, **helpful}).summary()
both.pivot(index="circuit", columns="metric", values="faithfulness")

# %% [markdown]
# They still prefer the right name on every prompt, and of what the model says otherwise next to
# nothing is left. One number is not a proof.
#
# ### Would other prompts have given the same circuit?
#
# We draw the templates again with replacement, grow the circuit from each draw, and ask how many
# edges it shares with the first (**Jaccard**: shared ones, of those that either has).

# %%
again = stability(scores["EAP-IG"], partial(top_circuit, fraction=0.05), n=8)
again

# %% [markdown]
# About half: which edges they are depends on the eight prompts, faithful or not. Edges that most
# draws agree on are in `again.often`.
#
# ### Look at it
#
# The 40 heaviest edges of the circuit. Blue helps, red works against. Heads in one box share their
# keys and values (grouped-query attention).

# %%
interp.figures.circuit(kept, scores["EAP-IG"], facts=model.facts, n=40)

# %% [markdown]
# ## What to take along
#
# - A circuit is of a model, a task, a corruption and an ablation. With another of them it is a new
#   one, and both are right.
# - Find on some prompts, prove on others. Estimates are checked by measuring the top of them.
# - Faithfulness is a ratio to *this* model on *this* metric. Beside it belong an interval, random
#   circuits, another method, and KL.
# - A faithful circuit may be one of several: ask how stable it is.
# - `experiments/ioi_circuit` does all of this with more prompts and names the heads by what they
#   do; `experiments/agreement_circuit` and `experiments/greater_than` do it for other tasks;
#   `experiments/ground_truth` grades the methods where the truth is known.
