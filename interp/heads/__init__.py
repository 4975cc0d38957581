"""How it computes: what heads attend to, what they write, and which relations they carry.

| question | names |
| --- | --- |
| where does a head look | `attention`; `detect`, `detect_across`; `head_types`; `repeated_tokens` |
| what does it look for | `qk_tokens`, `offset_curve`, `offset_pair`, `position_scores` |
| what does it write | `ov_tokens`, `ov_directions`, `copying_scores` |
| which head feeds which | `composition` |
| what does each part say of the answer | `logit_lens`, `direct_logit_attribution` |
| which relation does it carry | `attended`, `relations`, `choose_heads`, `compare_heads` |
"""

from interp.heads.lens import direct_logit_attribution, logit_lens
from interp.heads.looking.attended import attended
from interp.heads.looking.attention import attention
from interp.heads.looking.relations import choose_heads, compare_heads, relations
from interp.heads.types.across import detect_across
from interp.heads.types.detect import detect
from interp.heads.types.head_types import HeadTypes, head_types, types_of
from interp.heads.types.repeats import repeated_tokens
from interp.heads.weights.composition import composition
from interp.heads.weights.offsets import offset_curve, offset_pair, position_scores
from interp.heads.weights.qk_ov import copying_scores, ov_directions, ov_tokens, qk_tokens

__all__ = [
    "HeadTypes",
    "attended",
    "attention",
    "choose_heads",
    "compare_heads",
    "composition",
    "copying_scores",
    "detect",
    "detect_across",
    "direct_logit_attribution",
    "head_types",
    "logit_lens",
    "offset_curve",
    "offset_pair",
    "ov_directions",
    "ov_tokens",
    "position_scores",
    "qk_tokens",
    "relations",
    "repeated_tokens",
    "types_of",
]
