"""`compiled/frequency`: how often has the current token occurred so far? One layer with an MLP.

The model knows no positions: counting does not need them. The answer is a token, "1" to "15".

**The residual stream**: *token* (one axis for each token that can be read, "<bos>" among them),
*share* (one axis for each: its share of the row so far), *mine* (the current token's share),
*spare* (read by nobody). Counts are said and never read.

**0.0, the counting head**: its query and key are 0, so attention is uniform: 1 / (p + 1) to each
place. OV copies *token* into *share*: the mean of one-hot tokens is each token's share c / (p + 1).
As "<bos>" stands once in each row, its share is b = 1 / (p + 1).

**The MLP picks the current token's share**: neuron v computes relu(share_v + token_v - 1), which is
share_v where v is the current token, and 0 where not, as no share exceeds 1. This is how a ReLU
multiplies by a bit. All neurons write into *mine* = g = c b.

**The unembedding divides**: the count is c = g / b, and no linear map divides; but the logit of
count k is 2 k g - k^2 b = b (c^2 - (k - c)^2), linear in g and b, and greatest at k = c. So it
reads *mine* by 2 k and the "<bos>" axis of *share* by -k^2 (times a scale).

**Distractors**: 0.1 attends to equal tokens and copies them into *spare*; 0.2 is idle. 0.2 has the
attention pattern of 0.0: only its OV tells them apart.

**The truth**, read at "end"; "same" is an earlier occurrence of the end's token, "other" holds
another token.

- zero: the counting head without values has no shares; the MLP without 0.0 has no share, without
  the embedding no bit; the unembedding without the MLP no g, without 0.0 no b. By position: values
  at "same" and "end" are counted, at "bos" b comes from; at "other", some other token's share
  falls, which no neuron that is open sees. Query and key are 0 already.
- resample, "recount" (the token at "same" is another, so the count falls by one): the shares vary,
  and with them all up to the unembedding; the end's bit does not: embed -> 0.mlp is false.
- resample, "current" (the end's token is another, that occurred another number of times): the bit
  varies as well; of the values that are counted, that at "end".
- *What surprises*: 0.0 -> logits is true under zero alone. It carries b, and b is the same in all
  rows of a length: a constant that the model cannot do without.
- mean: all letters of all places vary over the rows of a template, so embed -> 0.0.v is true at
  "other" too: a mean of letters holds a piece of the end's letter. That place is true under
  mean alone: zero takes nothing from the count there, and resample leaves it as it is.
"""

from collections.abc import Sequence

import numpy as np
import torch

from interp.models.compiled.blueprint import HARD, Blueprint, Head, Neurons, Stream, eye, zeros
from interp.models.compiled.construction import BOS, Construction, Example, keyed, other
from interp.models.compiled.heads import copies, idle

N_CTX, D_HEAD, SCALE = 16, 9, 20.0
READ = ("<bos>", *"abcdefgh")
VOCABULARY = (*READ, *(str(count) for count in range(1, N_CTX)))
N, LETTERS = len(READ), range(1, len(READ))
STREAM = Stream({"token": N, "share": N, "mine": 1, "spare": N})
TEMPLATES = {"short": (9, 3, 6), "long": (12, 7, 4)}
"""Length, "same" and "other" of a row."""


def equal_tokens() -> Head:
    """Attends to the places that hold the current token, itself among them, all alike."""
    head = idle(STREAM, D_HEAD)
    head.q[STREAM["token"], :N] = HARD * eye(N)
    head.k[STREAM["token"], :N] = eye(N)
    return copies(head, STREAM, source="token", into="spare")


def pick() -> Neurons:
    """The share of the current token."""
    w_in, w_out = zeros(STREAM.width, N), zeros(N, STREAM.width)
    w_in[STREAM["token"]] = eye(N)
    w_in[STREAM["share"]] = eye(N)
    w_out[:, STREAM["mine"]] = 1
    return Neurons(w_in, zeros(N) - 1, w_out)


def blueprint() -> Blueprint:
    """The weights."""
    tokens, unembed = zeros(len(VOCABULARY), STREAM.width), zeros(STREAM.width, len(VOCABULARY))
    tokens[:N, STREAM["token"]] = eye(N)
    counts = torch.arange(1, N_CTX, dtype=torch.float64)
    unembed[STREAM["mine"], N:] = SCALE * 2 * counts
    unembed[STREAM["share"].start + BOS, N:] = -SCALE * counts**2
    counting = copies(idle(STREAM, D_HEAD), STREAM, source="token", into="share")
    heads = (counting, equal_tokens(), idle(STREAM, D_HEAD))
    return Blueprint(tokens, None, (heads,), unembed, N_CTX, mlps=(pick(),))


def answers(row: Sequence[int]) -> list[int]:
    """The count of each token so far, itself included, as the token that names it."""
    return [N - 1 + list(row[: i + 1]).count(token) for i, token in enumerate(row)]


def draw(rng: np.random.Generator) -> list[int]:
    """Letters at random after "<bos>", few of them in some rows; 2 to n_ctx tokens in all."""
    among = rng.permutation(LETTERS)[: rng.integers(1, N)]
    return [BOS, *rng.choice(among, rng.integers(1, N_CTX)).tolist()]


def pair(corruption: str, template: str, rng: np.random.Generator) -> Example:
    """The end's letter stands at "same" too, and not at "other"."""
    length, same, elsewhere = TEMPLATES[template]
    clean = [BOS, *rng.choice(LETTERS, length - 1).tolist()]
    clean[same] = clean[-1]
    clean[elsewhere] = other(rng, LETTERS, than=[clean[-1]])
    corrupt = list(clean)
    while answers(corrupt)[-1] == answers(clean)[-1]:
        at = same if corruption == "recount" else -1
        corrupt[at] = other(rng, LETTERS, than=[clean[-1]])
    places = {"bos": 0, "other": elsewhere, "same": same, "end": length - 1}
    return Example(clean, corrupt, places, answers(clean)[-1], answers(corrupt)[-1])


SAME, END = "embed -> 0.0.v @ same", "embed -> 0.0.v @ end"
BOS_VALUE, OTHER = "embed -> 0.0.v @ bos", "embed -> 0.0.v @ other"
SHARES = ["0.0 -> 0.mlp @ end", "0.mlp -> logits @ end"]
BIT, CONSTANT = "embed -> 0.mlp @ end", "0.0 -> logits @ end"
ZERO = [SAME, END, BOS_VALUE, *SHARES, BIT, CONSTANT]
MEAN = [SAME, END, OTHER, *SHARES, BIT]

MODEL = Construction(
    vocabulary=VOCABULARY,
    roles={
        "0.0": "uniform: shares of all tokens",
        "0.1": "equal tokens, into spare",
        "0.2": "idle",
        "0.mlp": "picks the current token's share",
    },
    blueprint=blueprint,
    answers=answers,
    draw=draw,
    templates=tuple(TEMPLATES),
    corruptions=("recount", "current"),
    pair=pair,
    truth=keyed(
        {
            ("zero", "recount"): ZERO,
            ("zero", "current"): ZERO,
            ("mean", "recount"): MEAN,
            ("mean", "current"): MEAN,
            ("resample", "recount"): [SAME, *SHARES],
            ("resample", "current"): [END, *SHARES, BIT],
        }
    ),
)
