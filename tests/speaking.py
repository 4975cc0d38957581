"""What tests of decoding share: the logits of each step of a text that is given."""

from collections.abc import Mapping, Sequence

import tiny
import torch
from conftest import REPLAYED
from torch import Tensor

from interp import Pairs
from interp.engine.decode.choosing import How
from interp.engine.decode.run import Asked, _Block, _means
from interp.engine.decode.stopping import Stop
from interp.engine.engines.choose import choose
from interp.models.model import Model

N = 4
"""Tokens that are said."""
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
"""Who say nothing, with a head or without."""
SPEAKING = [f for f in (*REPLAYED, *tiny.EXPERTS) if not f.startswith(ENCODERS)]


class Halved:
    """A function of the current activation, of the user's own."""

    source = None

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return 0.5 * current - 0.1 * current.square()


def widened(held: Tensor, like: Tensor) -> Tensor:
    """Zeros behind the prompt, where nothing is read of it; of a pattern among the keys, too."""
    out = torch.zeros_like(like)
    if held.ndim == 3 and held.shape[1] == held.shape[2] and like.shape[1] == like.shape[2]:
        out[:, : held.shape[1], : held.shape[2]] = held[:, : like.shape[1], : like.shape[2]]
    else:
        out[:, : held.shape[1]] = held[:, : like.shape[1]]
    return out


def block_of(model: Model, pairs: Pairs, sets: Mapping, rows: Sequence[int], engine: str) -> _Block:
    asked = Asked(model, pairs, sets, N, How(), Stop(model), engine)
    served = choose(model, engine, longest=pairs.longest + N)
    return _Block(asked, served, list(sets), rows, _means(asked, served), [0] * len(rows))


@torch.inference_mode()
def steps(block: _Block, text: Tensor) -> Tensor:
    """The logits of each step, `step cells batch d_vocab`, of a text that is given."""
    session = block.session(block.rows)
    found = [session.begin()]
    for said in text.unbind(-1)[:-1]:
        found.append(session.step(said))
    return torch.stack(found)
