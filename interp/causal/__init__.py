"""Which parts do it: ablation, activation patching, path patching. Each writes a list of cells."""

from interp.causal.ablation import ablate
from interp.causal.evaluation import evaluate
from interp.causal.intervening import intervene
from interp.causal.patching import patch
from interp.causal.paths import path_patch
from interp.causal.targets import complement

__all__ = ["ablate", "complement", "evaluate", "intervene", "patch", "path_patch"]
