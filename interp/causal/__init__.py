"""Which parts do it: ablation, activation patching, path patching. Each writes a list of cells."""

from interp.causal.ablation import ablate
from interp.causal.evaluation import evaluate
from interp.causal.patching import patch
from interp.causal.paths import path_patch

__all__ = ["ablate", "evaluate", "patch", "path_patch"]
