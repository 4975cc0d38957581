"""Probing: what can be read off the activations of words, and whether the model uses it.

| step | names |
| --- | --- |
| activations of words | `collect` -> `Features` |
| linear probes with every control in one table | `Split`, `tagging`, `selectivity` |
| a fitted probe on new text | `Tagger` |
| bits of the labels | `description_length` |
| probes by themselves | `fit_linear`; `fit_probe` with `Mlp`, `Bilinear`, `SpanClassifier` |
| pairs of mentions | `mention_pairs` -> `MentionPairs` |
| trees in the geometry | `Trees`, `fit_distance` |
| which layers a task needs | `expected_layer`, `centre_of_gravity` |
| whether later layers keep it | `persistence` |
| what is left of a property | `erasers`, `HeldOut`, `still_read` |
| from knowing to using | `amnesic`, `by_kind`, `beyond`; `steering_vector`, `steer` |
"""

from interp.probing.amnesic import amnesic
from interp.probing.beyond import beyond, by_kind
from interp.probing.collect import collect
from interp.probing.coreference import MentionPairs, mention_pairs
from interp.probing.erasure import Erasers, erasers
from interp.probing.examples import Examples
from interp.probing.features import Features
from interp.probing.given import sinks
from interp.probing.linear import LinearProbe, fit_linear
from interp.probing.mdl import description_length
from interp.probing.mixing import centre_of_gravity, expected_layer
from interp.probing.nets import Bilinear, Mlp
from interp.probing.persistence import persistence
from interp.probing.selectivity import selectivity
from interp.probing.spans import SpanClassifier
from interp.probing.split import Split
from interp.probing.steering import steer, steering_vector
from interp.probing.still_read import HeldOut, still_read
from interp.probing.structural import fit_distance
from interp.probing.tagger import Tagger
from interp.probing.tagging import Tagging, tagging
from interp.probing.trained import fit_probe
from interp.probing.training import Schedule
from interp.probing.trees import Trees

__all__ = [
    "Bilinear",
    "Erasers",
    "Examples",
    "Features",
    "HeldOut",
    "LinearProbe",
    "MentionPairs",
    "Mlp",
    "Schedule",
    "SpanClassifier",
    "Split",
    "Tagger",
    "Tagging",
    "Trees",
    "amnesic",
    "beyond",
    "by_kind",
    "centre_of_gravity",
    "collect",
    "description_length",
    "erasers",
    "expected_layer",
    "fit_distance",
    "fit_linear",
    "fit_probe",
    "mention_pairs",
    "persistence",
    "selectivity",
    "sinks",
    "steer",
    "steering_vector",
    "still_read",
    "tagging",
]
