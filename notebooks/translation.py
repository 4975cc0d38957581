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
# # One sentence, from source to target
#
# The transformer of *Attention is all you need* (Vaswani et al. 2017) translates: an **encoder**
# reads the source, a **decoder** writes the target word by word, and **cross-attention** carries
# what the one has read to the other. We follow one sentence along these paths, in a translator of
# the paper's shape that is trained here, on two languages of a small grammar, so that it is known
# which word translates which.
#
# The first run trains three small models, 4 minutes of one core; they are kept. The rest takes half
# a minute. `python -m experiments.translation` asks the same of hundreds of sentences, with
# intervals.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bars are missed

import pandas as pd
from matplotlib.figure import Figure

import interp
from interp.figures.drawing import style
from interp.models import toy
from interp.models.translator.grammar import Clause, Phrase, translation
from interp.models.translator.training import translated

pd.set_option("display.precision", 2)
found = toy.translator()
model = found.model
print(f"{found.accuracy:.1%} of 1,000 sentences that it has not seen are right to the last word")
found.curve

# %% [markdown]
# ## The sentence
#
# English goes into Spanish words in an order of their own: adjectives stand after their noun, the
# verb at the end, and an adverb is two words before it. Gender and number, which English shows at
# the noun alone, are shown by the determiner, by adjectives and (number) by the verb.

# %%
clause = Clause(
    subject=Phrase("king", adjectives=("old",)),
    verb="saw",
    object=Phrase("house", plural=True, adjectives=("red",)),
    adverb="finally",
    first=True,
)
said = translation(clause)
writes = translated(model.bridge.original_model, [clause])[0]
print(said.english)
print(model.tokenizer.decode(writes))
assert model.tokenizer.decode(writes) == said.other

# %% [markdown]
# ## Where the decoder looks
#
# Each row is a word that is about to be written, each column a source word; a ring is the true
# alignment. The first layer of the decoder looks here and there, the last one where it should.


# %%
def patterns(model: interp.Model, heads: list[str]) -> Figure:
    """Attention of some cross heads, beside the alignment."""
    text = {"clean": [said.english], "corrupt": [said.english], "target": [said.other]}
    names = [f"{head}.pattern" for head in heads]
    kept = interp.capture(model, interp.Pairs.from_text(model, **text), names)
    with style.context():
        figure = style.blank(2.4)
        grid = figure.subplots(1, len(heads), sharey=True)
        for axes, head, name in zip(grid, heads, names, strict=True):
            pattern = kept.rows(name)[0][: len(said.target)]
            axes.imshow(pattern.numpy(), cmap="Greys", vmin=0, vmax=1)
            axes.scatter(said.aligned, range(len(said.target)), s=40, fc="none", ec=style.colour(1))
            axes.set_xticks(range(len(said.source) + 1), [*said.source, "</s>"], rotation=90)
            axes.set_yticks(range(len(said.target)), said.target)
            axes.set_title(head)
    return figure


patterns(model, ["dec.0.cross.0", "dec.1.cross.0", "dec.2.cross.0"])

# %% [markdown]
# ## One word on its way
#
# Attention says where a head looks, not what is done with it. So we exchange one word: *houses* for
# *doors*, which is as feminine and as plural. After "el rey viejo las" the answer goes from *casas*
# to *puertas*. Each row below is a path: the change enters at that word, goes up the encoder, into
# the **values** or the **keys** of one head of cross-attention and no other, and on to the logits.


# %%
def beside(source: str, written: str, right: str, wrong: str) -> interp.Pairs:
    """The sentence beside one in which a word differs; what was written is the same."""
    words = said.source
    places = {"verb": words.index("saw"), "determiner": 5, "adjective": 6, "noun": 7, "subject": 3}
    return interp.Pairs.from_text(
        model,
        clean=[said.english],
        corrupt=[source],
        target=[written],
        correct=[right],
        wrong=[wrong],
        positions={name: [at] for name, at in places.items()},
    )


def ends(model: interp.Model, pairs: interp.Pairs) -> tuple[float, float]:
    """The logit difference between both answers, on the clean and on the corrupt side."""
    found = interp.evaluate(model, pairs, metric="logit_diff").frame.set_index("position")["value"]
    return found["clean"], found["corrupt"]


def paths(model: interp.Model, pairs: interp.Pairs, word: str) -> pd.DataFrame:
    """What the change of a word does by each key and value, as a share of all that it does."""
    clean, corrupt = ends(model, pairs)
    layers, heads = range(model.facts.n_layers), range(model.facts.n_heads)
    rows = []
    for head in [f"dec.{i}.cross.{j}" for i in layers for j in heads]:
        row = {"head": head}
        for part, name in (("v", "values"), ("k", "keys")):
            one = interp.path_patch(
                model,
                pairs,
                senders="enc.0.resid_pre",
                sender_positions=word,
                receivers=f"{head}.{part}",
                through="all",
            )
            row[name] = one.frame["effect"].sum() / (corrupt - clean)
        seen = interp.capture(model, pairs, f"{head}.pattern", positions="end")
        row["attention"] = float(seen[f"{head}.pattern"][0, 0, pairs.at(word)[0]])
        rows.append(row)
    return pd.DataFrame(rows).set_index("head")


noun = beside(said.english.replace("houses", "doors"), "el rey viejo las", "casas", "puertas")
paths(model, noun, "noun").style.format("{:.2f}").background_gradient("Greys", vmin=0, vmax=1)

# %% [markdown]
# The word goes through values of the last layer's heads alone, and those look at it. Nothing of it
# goes through keys: what a head looks for is a place, which does not change with the word.
#
# ## Agreement: a word that is used where none looks at it
#
# Before *casas* stands *las*, whose gender is that of a noun that has not been written yet. Here
# *gardens* stands for *houses*, masculine and as plural: *los*. Which head brings that, while
# others look at the determiner?

# %%
gender = beside(said.english.replace("houses", "gardens"), "el rey viejo", "las", "los")
found_by = paths(model, gender, "noun")
found_by.style.format("{:.2f}").background_gradient("Greys", vmin=0, vmax=1)

# %% [markdown]
# Did the encoder bring the noun's gender to the determiner? We patch what stands after each of its
# layers at one position. If the determiner had learned its gender there, the corrupt value at the
# determiner would exchange the answer.


# %%
def resolved(model: interp.Model, pairs: interp.Pairs, places: list[str]) -> pd.DataFrame:
    """What the corrupt stream does at one place, as a share of the whole change."""
    clean, corrupt = ends(model, pairs)
    layers = range(model.facts.n_encoder_layers)
    sites = ["enc.0.resid_pre", *(f"enc.{i}.resid_post" for i in layers)]
    moved = interp.patch(model, pairs, sites, positions=places).frame
    share = moved.assign(share=moved["effect"] / (corrupt - clean))
    return share.pivot_table(index="site", columns="position", values="share", sort=False).round(2)


resolved(model, gender, ["determiner", "adjective", "noun"])

# %% [markdown]
# It did not: the decoder reads the gender at the noun itself, whatever the layer. And the number of
# the verb? *King* becomes *kings*; asked is the last word, when everything else has been written.

# %%
number = beside(
    said.english.replace("king", "kings"), "el rey viejo las casas rojas por fin", "vio", "vieron"
)
print("logit difference of vio and vieron, of the sentence and of its twin:")
print(f"{ends(model, number)[0]:.1f} and {ends(model, number)[1]:.1f}")
other = interp.Pairs.from_text(
    model,
    clean=[said.english],
    corrupt=[said.english],
    target=["el rey viejo las casas rojas por fin"],
    corrupt_target=["los reyes viejos las casas rojas por fin"],
    correct=["vio"],
    wrong=["vieron"],
)
print(f"with the plural in what was written: {ends(model, other)[1]:.1f}")

# %% [markdown]
# The source does not decide it at all: the decoder takes the number from the subject that **it has
# written itself**. A decoder of three layers has room for that: find the subject, tell its number,
# and bring it to the end.
#
# ## With one layer the encoder has to do it
#
# The same grammar, one layer in each stack. It translates as well.

# %%
shallow_toy = toy.translator(layers=1)
shallow = shallow_toy.model
print(f"{shallow_toy.accuracy:.1%} right")
resolved(shallow, number, ["subject", "verb", "noun"])

# %% [markdown]
# Before the encoder's one layer the number stands at the subject, after it at the verb. One of its
# heads has carried it there:

# %%
heads = [f"enc.0.{i}" for i in range(shallow.facts.n_heads)]
moved = interp.patch(shallow, number, heads, positions="verb")
moved.frame[["site", "base", "value", "effect"]].round(2)

# %% [markdown]
# So where agreement is resolved is no property of the task, or of "the encoder": it goes where
# there is room.
#
# ## Without positions
#
# An encoder that knows no positions reads a bag of words. Who saw whom is then lost, though not the
# words.

# %%
bag = toy.translator(positions="none")
back = [
    Clause(subject=Phrase("king"), verb="saw", object=Phrase("queen")),
    Clause(subject=Phrase("queen"), verb="saw", object=Phrase("king")),
]
for one in back:
    for name, of in (("with positions", model), ("without", bag.model)):
        (ids,) = translated(of.bridge.original_model, [one])
        print(f"{translation(one).english:30} {name:15} {model.tokenizer.decode(ids)}")
print(f"{bag.accuracy:.1%} of all sentences right without positions")
