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
# # From text to a head's figure
#
# *Ring* is a noun in "my ring fell" and a verb in "they will ring". Three questions about that,
# asked of a language model:
#
# 1. **Decodable?** After which layer can a linear probe tell the noun from the verb?
# 2. **Attended?** Which attention head links an adjective to its noun?
# 3. **Used?** Does the model need what the probe reads, to go on with the sentence?
#
# The three have different answers, and each has a control without which it would mislead. All of
# this takes about a minute on two cores.

# %%
import warnings
from dataclasses import replace

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bars are missed

import pandas as pd
import torch

import interp
from interp import Site
from interp.datasets import Corpus, Document, homographs, modifiers
from interp.datasets.made.homographs import TAGS
from interp.datasets.words.alignment import align
from interp.heads import attended, choose_heads, relations
from interp.models import untrained
from interp.probing import HeldOut, Split, amnesic, beyond, by_kind, collect, erasers, tagging

pd.set_option("display.precision", 2)
model = interp.load("smollm2-135m", device="cpu")
model

# %% [markdown]
# ## Text
#
# A corpus is documents, their sentences, their words and what is annotated. This one is written for
# the question: 50 words that are noun and verb, in as many noun as verb sentences. Each sentence is
# a *frame* around the word. No word is in two splits.

# %%
text = homographs(split="test").where(lambda document: document.facts["context"] == "before")
pd.DataFrame(
    {
        "sentence": document.sentences[0].text,
        "word": document.facts["lemma"],
        "use": document.facts["use"],
        "frame": document.facts["template"],
    }
    for document in text.documents[:12]
)

# %% [markdown]
# Published corpora come in the same form. They are found in the folder `INTERP_DATA`, or downloaded
# once, so this cell is off; nothing below needs it. `interp.datasets.corpora()` lists them.

# %%
PUBLISHED = False
if PUBLISHED:
    for sentence in interp.datasets.corpus("ud-ewt", split="dev").sentences[:3]:
        print(" ".join(f"{word.form}/{word.upos}" for word in sentence.words))

# %% [markdown]
# ## Words to tokens
#
# A model reads tokens, a corpus annotates words. `align` finds the tokens that share a character
# with each word. These are the words of the set that the tokenizer cuts up (␣ is a space):

# %%
aligned = align(model, homographs())
pieces = {
    homographs().sentences[s].words[w].form: model.show(list(aligned.rows[row][start:end]))
    for s, w, row, start, end in zip(
        *(aligned.sentence, aligned.word, aligned.row, aligned.start, aligned.end), strict=True
    )
    if end - start > 1
}
pd.DataFrame({"word": pieces.keys(), "tokens": [" | ".join(p) for p in pieces.values()]}).head()

# %% [markdown]
# A word of several tokens needs a rule. We take its last token, the first that has seen all of the
# word.
#
# ## Activations
#
# A causal model cannot know at *ring* what comes after it, so we cut each sentence there. Training
# gets three frames of each use; another is for choices, and two are kept for the report.


# %%
def some(split: str, frames: slice) -> Corpus:
    """Sentences that say the use before the word, in some of the frames of each use."""
    text = homographs(split=split).where(lambda document: document.facts["context"] == "before")
    names = {use: [] for use in TAGS}
    for document in text.documents:
        names[document.facts["use"]].append(document.facts["template"])
    kept = {name for of in names.values() for name in list(dict.fromkeys(of))[frames]}
    return text.where(lambda document: document.facts["template"] in kept)


def cut(document: Document) -> Document:
    """The document without what follows the word."""
    (sentence,) = document.sentences
    words = sentence.words[: int(document.facts["target"]) + 1]
    cut = replace(sentence, text=sentence.text[: words[-1].span[1]], words=words)
    return replace(document, sentences=(cut,))


def prompts(split: str, frames: slice) -> Corpus:
    text = some(split, frames)
    return replace(text, documents=tuple(map(cut, text.documents)))


corpora = {
    "train": prompts("train", slice(0, 3)),
    "dev": prompts("dev", slice(3, 4)),
    "new words": prompts("test", slice(0, 3)),
    "new words, new frames": prompts("test", slice(4, 6)),
}
for name, corpus in corpora.items():
    print(f"{name}: {len(corpus.sentences)} prompts, such as {corpus.sentences[0].text!r}")

# %% [markdown]
# `collect` runs the model and keeps the residual stream at each word: before the first layer and
# after every layer. The first control is already here: the same architecture with random weights,
# run on the same words.

# %%
random = untrained(model, seed=0)
few = ["0.resid_pre", *(f"{layer}.resid_post" for layer in (1, 5, 11, 17, 23, 29))]


def labelled(corpus: Corpus) -> Split:
    """The activations of the tagged words, with their tags."""
    split = Split.of(corpus, collect(model, corpus), collect(random, corpus, sites=few), "upos")
    return split.select([i for i, tag in enumerate(split.labels) if tag in TAGS.values()])


splits = {name: labelled(corpus) for name, corpus in corpora.items()}
splits["train"].features

# %% [markdown]
# ## A perfect score that means little
#
# Linear probes at a few layers, on *words* that training has not, in *frames* that it has:

# %%
train, dev = splits["train"], splits["dev"]
trap = tagging(train, dev, splits["new words"], task="noun or verb", sites=few, l2=(0.01,))
shares = ["value", "low", "high"]
linear = "probe == 'linear' and subset == 'all' and labels == 'real'"
trap.scores.query(linear).summary().pivot(index="depth", columns="model", values=shares)

# %% [markdown]
# All right from an early layer on, and just as much with *random* weights. So the score says
# nothing about what training has taught. A random network mixes the words before *ring* into its
# stream, and the probe has learned by heart that after "Tomorrow they will" comes a verb. New words
# were not enough: the frames must be new, too.
#
# ## Decodable: noun or verb, layer by layer
#
# The same with new frames, at all layers. The strength of regularisation is chosen on the
# development split. In the *control task* every word has a tag drawn at random, the same in all its
# sentences; on new words nobody can know it.

# %%
found = tagging(train, dev, splits["new words, new frames"], task="noun or verb", l2=(0.1, 0.01))
table = found.scores.query("subset == 'all'").summary()
names = {
    ("trained", "real"): "trained",
    ("random", "real"): "random weights",
    ("trained", "control"): "control task",
}
keys = zip(table["model"], table["labels"], strict=True)
table = table.assign(curve=[names.get(key, "other") for key in keys])
level = table.query("probe == 'word type'").assign(curve="word's most frequent tag")
interp.figures.layers(table.query("curve != 'other'"), hue="curve", baselines=level)

# %% [markdown]
# Now training makes the difference. Bands are 95 % intervals, by resampling the test words. The set
# is balanced, so a guess is right half of the time, and so is the embedding (layer 0), which cannot
# know the sentence.
#
# Which layer to report? The best one on the *development* split (of those that have every control),
# then its score on the test split, and how much better that is than the controls.

# %%
best = found.dev.query(f"model == 'trained' and labels == 'real' and site in {few}").best()["site"]
at_best = found.scores.query(f"site == '{best}' and subset == 'all'")
real = at_best.query("model == 'trained' and labels == 'real'")
random_weights = at_best.query("model == 'random' and labels == 'real'")
control_task = at_best.query("model == 'trained' and labels == 'control'")
numbers = {
    f"accuracy at {best}": real.summary(),
    "more than with random weights": real.minus(random_weights),
    "more than on the control task (selectivity)": real.minus(control_task),
}
pd.concat({name: part[[*shares, "n", "clusters"]] for name, part in numbers.items()}).droplevel(1)

# %% [markdown]
# ## Attended: which head links an adjective to its noun?
#
# Another set written for its question. A causal head looks left only, so we take the sentences in
# which the adjective follows its noun. Up to three words stand between the two, so that no fixed
# offset finds the noun.

# %%
adjectives = modifiers().where(lambda document: document.facts["side"] == "after")
for document in adjectives.documents[:4]:
    print(document.sentences[0].text)

# %% [markdown]
# After Clark et al. (2019): attention between tokens becomes attention between words, and every
# head is asked which word the adjective looks at most (*dependent -> head*).
#
# The best of 270 heads is good by luck alone on the text that it was chosen on. So it is chosen on
# half of the nouns and reported on the other half, beside the best fixed offset, such as "two words
# before", chosen in the same way.

# %%
scores = relations(attended(model, adjectives), adjectives, offsets=(-5, -4, -3, -2, -1))
chosen = choose_heads(scores).query("task == 'amod: dependent -> head'").iloc[0]
pd.DataFrame(
    {
        f"head {chosen['site']}": chosen[shares].to_list(),
        chosen["baseline"]: chosen[[f"baseline_{name}" for name in shares]].to_list(),
        "difference": chosen[["difference", "difference_low", "difference_high"]].to_list(),
    },
    index=shares,
).T.assign(n=chosen["n"], clusters=chosen["clusters"])

# %% [markdown]
# ## The head's figure
#
# The pattern of this head, on a sentence about a noun that it was not chosen on. A row is a token
# that looks, a column a token that is looked at.

# %%
head = chosen["site"]
reported = set(scores.query("subset == 'report'").frame["cluster"])
sentence = next(
    document.sentences[0].text
    for document in adjectives.documents
    if document.id in reported and document.facts["distance"] == "2"
)
tokens = model.encode(sentence)
kept = interp.capture(model, [tokens], f"{head}.pattern")
interp.figures.pattern(kept[f"{head}.pattern"][0], model.show(tokens), title=f"head {head}")

# %% [markdown]
# The adjective looks at its noun, and not at the nearer words. So do some of the words around it:
# a head that carries a relation need not be *for* that relation alone. Many other rows look at the
# first token. Heads rest there when they find nothing, so a high probability on it is no finding.
#
# ## Used: take the property away
#
# After a noun we expect "was" or "fell", after a verb "the". The metric is the logit of the word
# that does follow in the set's own sentence, less that of the word that follows in the other use.

# %%
whole = some("test", slice(4, 6)).documents
nouns, verbs = ([d for d in whole if d.facts["use"] == use] for use in TAGS)
rows = []
for noun, verb in zip(nouns, verbs, strict=True):
    ids = [model.encode(cut(document).sentences[0].text) for document in (noun, verb)]
    after = [
        model.encode(document.sentences[0].text)[len(prompt)]
        for document, prompt in zip((noun, verb), ids, strict=True)
    ]
    rows += [(ids[0], *after, noun.id), (ids[1], *reversed(after), verb.id)]
clean, correct, wrong, word = (list(column) for column in zip(*rows, strict=True))
pairs = interp.Pairs.from_tokens(
    clean=clean, corrupt=clean, correct=correct, wrong=wrong, cluster=word
)
behaviour = interp.evaluate(model, pairs).summary().query("position == 'clean'")
behaviour[["metric", "value", "low", "high", "n", "clusters"]]

# %% [markdown]
# Now LEACE (Belrose et al. 2023) takes away what a linear probe could read of the tag, at one layer
# at a time and at the last token; it is fitted on the training words. Each control takes something
# else away, eight times over: a random direction, a direction of the same variance, and labels
# that were drawn for each word. The report says how much of the variance each moves, how far its
# directions are LEACE's own, and how well a fresh probe still reads the tag of words that nothing
# was fitted to.

# %%
sites = [Site.parse(site) for site in few[1:]]
held = splits["new words, new frames"]
activations, new = (
    dict(zip(sites, split.features.stack(split.words, sites=sites), strict=True))
    for split in (train, held)
)
tags, new_tags = (
    torch.tensor([tag == "VERB" for tag in split.labels]).long() for split in (train, held)
)
taken = erasers(activations, tags, types=train.types, held_out=HeldOut(new, new_tags, held.cluster))
taken.report[["erased", "depth", "variance", "overlap", "before", "after", "majority"]]

# %%
erased = amnesic(model, pairs, taken, positions="end", metric="logit_diff")
effects = by_kind(erased)
names = {
    "erase leace": "the tag (LEACE)",
    "erase random": "a random direction",
    "erase same variance": "one of the same variance",
    "erase control task": "labels of a control task",
}
effects = effects.assign(value=effects["effect"], erased=effects["method"].map(names))
interp.figures.layers(effects, hue="erased", ylabel="change of the logit difference")

# %%
beyond(erased)[["site", "control", "draws", "effect", "low", "high", "p", "q", "clusters"]]

# %% [markdown]
# Early on the tag is there, decodable without a mistake, and taking it away changes little: the
# words before are still there, and later layers read them again. *Where a property can be read is
# not where it is used.* Late, the same erasure takes most of the model's preference, and a random
# direction takes next to nothing. But LEACE moves a hundred times as much of the variance there as
# a random direction does. Directions of the *same* variance would be the fair opponent, and here
# there are none: these prompts differ in little but the tag, so from the middle on the direction
# that carries so much variance is nearly LEACE's own (`overlap` up to 0.9), and costs as much. That
# the late layers use the tag, and not any push of this size, wants richer text than this.
#
# ## What this does not show
#
# - **Little text.** Ten test words and two frames of each use. The intervals resample words, not
#   frames, so they do not say how another frame would do, and one that runs from 1 to 1 means that
#   there was no error, not that there is no doubt. `experiments/pos` asks the same of thousands
#   of words of web text.
# - **The head.** It looks from the adjective to its noun in these four frames. That does not show
#   that the model needs it; ablating it would (`interp.ablate`). Other heads may do the same.
# - **The erasure.** It was fitted on fewer words than the stream has dimensions, so on new words it
#   is an estimate: the report shows that a fresh probe still reads the tag there. It covers what
#   is *linear*, and whatever goes along with the tag: it may take more than part of speech.
# - **The model.** A small one, of 4-bit weights made wide again. For a result to publish, load the
#   full-precision weights (README).
