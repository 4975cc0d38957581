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
# # What a head looks for, and what it writes
#
# An attention head does two things that can be read from its weights, one without the other:
#
# - **QK**: which tokens it looks at. Query times key is a score for each pair of places.
# - **OV**: what it writes where it looks. Value times output is a vector for each place that is
#   looked at.
#
# (Elhage et al. 2021, *A Mathematical Framework for Transformer Circuits*.) We read both, first in
# a model whose weights were written by hand, so that every answer is known, then with the same
# functions in SmolLM2-135M. There we also ask whether the model needs the head. It takes about a
# minute.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bars are missed

import numpy as np
import pandas as pd
from scipy.special import softmax

import interp
from interp import Site
from interp.datasets.tasks.repeated import repeated_pairs
from interp.engine.engines.choose import weights_of
from interp.figures.drawing import style
from interp.heads.types.activation_copying import COPYING
from interp.heads.types.repeats import ordinary
from interp.heads.weights.factors import factors
from interp.heads.weights.vocabulary import Vocabulary
from interp.models import compiled
from interp.models.bridge.factored import FactoredMatrix

pd.set_option("display.precision", 2)
by_hand = interp.load("compiled/induction")
by_hand

# %% [markdown]
# ## A model that was written by hand
#
# It does one thing: after `... A B ... A` it says `B`. That is *induction*, and takes two heads in
# two layers. These are a few of its prompts:

# %%
letters = compiled.construction("induction").vocabulary
pairs = compiled.pairs("induction", corruption="answer", n=64, seed=0)
for i in range(4):
    print(" ".join(pairs.strings[i][0]), " ->", letters[int(pairs.correct[i])])
pd.Series(compiled.roles("induction"), name="role").to_frame()

# %% [markdown]
# Where do the two heads look? A row is the token that looks, a column the one that is looked at.


# %%
def looks(model, tokens, head, words):
    """The attention pattern of a head on one prompt."""
    seen = interp.capture(model, tokens, f"{head}.pattern")
    return interp.figures.pattern(seen.rows(f"{head}.pattern")[0], words, title=f"head {head}")


one = pairs.select([0])
looks(by_hand, one, "0.0", one.strings[0][0])

# %%
looks(by_hand, one, "1.0", one.strings[0][0])

# %% [markdown]
# Head 0.0 looks one token back, always. Head 1.0 looks at `<bos>`, which means nowhere, until a
# token comes that has been there before. Then it looks at the one *after* it. Patterns show that
# much. Why do the heads look there? That is in the weights.
#
# ### QK of the first head: places
#
# This model adds a vector for each position to the token. The score of one position for another,
# over all tokens, is the *position-position circuit*:

# %%
scores = interp.heads.position_scores(by_hand, "0.0", positions=10)
table = scores.frame.pivot(index="query", columns="key", values="value")
table

# %% [markdown]
# Along each row the largest number stands one place back (the first token has but itself), and the
# next is smaller by 40. After the softmax nothing is left of the others:

# %%
places = [str(i) for i in range(10)]
interp.figures.pattern(
    softmax(table.fillna(-np.inf).to_numpy(), axis=1), places, title="0.0: QK by position alone"
)

# %% [markdown]
# ### QK of the second head: a key that another head wrote
#
# Which tokens does the induction head look for? Ask its QK circuit from a token's embedding to
# another's:

# %%
found = interp.heads.qk_tokens(by_hand, "1.0", letters.index("c"), top=4).frame
found.assign(token=[letters[i] for i in found["token"]])[["token", "value", "null_sd", "z"]]

# %% [markdown]
# Nothing: all tokens score the same, not even `c` looks for `c`. The circuit is read from
# embeddings, and what this head's key reads is no embedding. It is what head 0.0 has written:
# *which token stood before me*. That two heads work together is seen in their weights as well.
# **Composition** measures how much of what one head writes lies where another's query, key or value
# reads, beside the pairs of heads that cannot compose (`null`: a later writer into an earlier
# reader) and beside what random directions would give (`rotation_null`):

# %%
together = interp.heads.composition(by_hand)
columns = ["measure", "site", "other", "value", "null", "p", "rotation_null", "rotation_p"]
together.top(5, by="excess")[columns]

# %% [markdown]
# With so few heads there are too few impossible pairs for a small `p`; here the size of the score
# says enough. Only one pair is connected: the **key** of 1.0 reads the output of 0.0. That is
# K-composition, and this is how induction works: 0.0 writes at `B` "`A` was before me", and at the
# second `A` head 1.0 asks "before whom was `A`?".
#
# ### OV: copying
#
# Whatever head 1.0 looks at: which logits does it raise?

# %%
written = {}
for letter in ("a", "c", "k"):
    frame = interp.heads.ov_tokens(by_hand, "1.0", letters.index(letter), top=3).frame
    pairs_of = zip(frame["token"], frame["value"], strict=True)
    written[letter] = [f"{letters[i]} {value:+.1f}" for i, value in pairs_of]
pd.DataFrame(written, index=["most", "second", "third"]).rename_axis(columns="looks at")

# %% [markdown]
# The same token, and all others fall behind alike. A head copies if that holds for the whole
# vocabulary, and one number says it: the eigenvalues of the OV circuit, from vocabulary to
# vocabulary, are positive where looking at a combination of tokens raises the same combination. The
# **copying score** is their sum over the sum of their sizes, from -1 to 1.

# %%
copying = interp.heads.copying_scores(by_hand)
columns = ["site", "value", "null_sd", "z"]
copying.frame[copying.frame["layer"].notna()][columns].dropna(subset="value")


# %%
def eigenvalues(model, head):
    """Those of the full OV circuit of a head; of its small product, which has the same."""
    w, site = weights_of(model), Site.parse(head)
    f = factors(w, site.layer)
    product = FactoredMatrix(Vocabulary(w).gram() @ f.v[site.head], f.o[site.head])
    return product.eigenvalues.detach().numpy()


def on_plane(values):
    """Eigenvalues as points, by name."""
    with style.context():
        figure = style.blank(2.4)
        for axes, (name, points) in zip(
            figure.subplots(1, len(values), squeeze=False)[0], values.items(), strict=True
        ):
            axes.axhline(0, color=style.FAINT, linewidth=0.6)
            axes.axvline(0, color=style.FAINT, linewidth=0.6)
            axes.scatter(points.real, points.imag, s=10, color=style.colour(0), alpha=0.6)
            limit = 1.1 * max(abs(points).max(), 1e-3)
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), title=name, xlabel="real part")
            axes.locator_params(nbins=5)
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[0].set_ylabel("imaginary part")
    return figure


on_plane({f"head {head}": eigenvalues(by_hand, head) for head in ("1.0", "1.1")})

# %% [markdown]
# The eigenvalues of 1.0 are 20, none is negative (a 0 is the mean over the vocabulary, which is
# taken off: it moves no choice). Those of 1.1 are all 0: it writes where nothing reads, so to the
# logits it is silent, though it has a neat pattern. A pattern is not a function.
#
# So much can be read where we know what to find. Now a model that was trained.
#
# ## SmolLM2-135M: the strongest induction head
#
# `head_types` runs rows of random tokens that repeat, on which only a head that looks for repeats
# can know anything, and asks all 270 heads what they are.

# %%
model = interp.load("smollm2-135m", device="cpu")
types = interp.heads.head_types(model, n=16)
interp.figures.head_types(types.scores, detectors=["previous", "induction"])

# %%
inducers = types.heads("induction")
head = inducers[0]
previous = types.heads("previous")[0]
print(f"strongest induction head: {head}; previous-token head: {previous}")
types.table.set_index("site").loc[[head, previous], ["types", "induction", "previous"]]

# %% [markdown]
# (Chosen on half of the rows, scores of the other half.) This is its attention on a row in which
# twelve random tokens repeat. The line of dark squares is the same as in the model by hand: from
# each token of the second round to the one *after* its first occurrence.

# %%
row = interp.heads.repeated_tokens(model, 1, block=(12, 12), pos=24)
looks(model, row, head, [word.strip()[:8] for word in model.show(row[0].tolist())])

# %% [markdown]
# ### QK by distance
#
# SmolLM2 adds no positions; it turns queries and keys by angles that grow with the place (RoPE). So
# the score depends on content *and* distance. This is the mean score of the queries and keys of
# some rows of random tokens, if they stood at each distance:

# %%
rows = interp.heads.repeated_tokens(model, 8, seed=1)
rows = interp.Pairs.from_tokens(clean=rows, corrupt=rows)
curve = interp.heads.offset_curve(model, [head, previous], offsets=range(24), contents=rows).frame
interp.figures.curves(
    curve.assign(low=np.nan, high=np.nan),
    x="offset",
    hue="site",
    xlabel="distance back to the key (tokens)",
    ylabel="mean score",
)

# %% [markdown]
# The previous-token head has its peak at 1, whatever the tokens are: a difference of 3 in the score
# is a factor of 20 in attention. The induction head's curve is nearly level. It cannot prefer a
# distance, for the answer may be anywhere; content decides.
#
# ### OV: does it copy?
#
# The copying scores of all heads, in seconds: the circuit over 49,152 tokens is never formed. Here
# are those of the five strongest induction heads.

# %%
copying = interp.heads.copying_scores(model, samples=16)
heads = copying.frame[copying.frame["layer"].notna()]
strongest = heads.set_index("site").loc[inducers[:5], ["value", "null_sd", "z", "q"]]
above = (heads["value"] < strongest.loc[head, "value"]).mean()
print(f"{head} scores above {above:.0%} of all heads")
strongest

# %%
on_plane({f"head {name}": eigenvalues(model, name) for name in (head, previous)})

# %% [markdown]
# Far above random weights, by seven standard deviations, and yet nothing special: many heads of
# this model score higher, and some induction heads score below 0. What does this one write where it
# looks at a word? `value` is what it adds to a logit, `direct` what the word's embedding adds by
# itself.

# %%
words = [" Paris", " seven", " green"]
found = pd.concat(interp.heads.ov_tokens(model, head, word, top=4).frame for word in words)
found.assign(source=np.repeat(words, 4))[["source", "text", "value", "null_sd", "q", "direct"]]

# %% [markdown]
# Nothing to read: q is near 1, and the word itself is not among the first. So a copying score
# is a hint and no more. The circuit is read from embeddings, and what stands at a word in layer 18
# is no longer its embedding. The same question asked of *activations*, on the rows of repeated
# tokens: how much does the head raise the token that it looks at, beside even attention (`null`)?
# The interval is of the difference, `effect`.

# %%
copies = types.scores.query(f"metric == '{COPYING}' and site in {[head, previous]}")
copies[["site", "value", "null", "effect", "low", "high", "q"]]

# %% [markdown]
# And what does it look for, read from embeddings? As in the model by hand, that is the wrong
# question for an induction head: its keys are made by heads before it. Some likeness to the word is
# there nevertheless.

# %%
found = interp.heads.qk_tokens(model, head, " Paris", top=5).frame
found[["text", "value", "null_sd", "z", "q"]]

# %% [markdown]
# ### Does the model need it?
#
# Weights say what a head would do. Whether it matters, an ablation says: the head's output becomes
# its mean, on prompts that end where induction knows the next token. Beside it are random sets with
# as many heads in the same layers (`random`, with the 5th and 95th percentile). The metric is how
# far the right token is ahead of a wrong one, in logits.

# %%
ids = ordinary(model).tolist()
prompts = repeated_pairs(16, vocabulary=ids, seed=1, block=(10, 16), before=(0, 0))
usual = interp.heads.repeated_tokens(model, 32, pos=40, seed=1)
sets = {"the strongest": inducers[:1], f"all {len(inducers)}": inducers}
out = interp.causal.knock_out(model, prompts, sets, reference=usual, metric="logit_diff", draws=10)
table = interp.causal.beside_random(out)
table[["method", "site", "base", "effect", "low", "high", "random", "random_low", "random_high"]]

# %% [markdown]
# The model loses far more than with random heads. "Recomputed" lets later heads look elsewhere once
# these are gone, "kept" holds where they look: of the strongest head alone a good part of the
# effect is that others, later, look where it has pointed.
#
# ## What to take along
#
# - QK and OV are two circuits. Read both: a pattern alone does not say what a head does.
# - A circuit that is read through embeddings is the *direct* path. Where a head reads what another
#   wrote, composition shows it, and the direct path shows nothing.
# - A copying score is a hint. Ask the activations too.
# - Weights say what could be, ablations what is needed. `experiments/qk_ov` goes on from here:
#   it takes the pattern from one run and the values from another.
