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

from interp.probing.ask.coreference import MentionPairs, mention_pairs
from interp.probing.ask.mdl import description_length
from interp.probing.ask.selectivity import selectivity
from interp.probing.ask.split import Split
from interp.probing.ask.structural import fit_distance
from interp.probing.ask.tagger import Tagger
from interp.probing.ask.tagging import Tagging, tagging
from interp.probing.ask.trees import Trees
from interp.probing.fit.linear import LinearProbe, fit_linear
from interp.probing.fit.nets.examples import Examples
from interp.probing.fit.nets.mixing import centre_of_gravity, expected_layer
from interp.probing.fit.nets.nets import Bilinear, Mlp
from interp.probing.fit.nets.spans import SpanClassifier
from interp.probing.fit.nets.trained import fit_probe
from interp.probing.fit.nets.training import Schedule
from interp.probing.read.collect import collect
from interp.probing.read.features import Features
from interp.probing.read.given import sinks
from interp.probing.use.amnesic import amnesic
from interp.probing.use.beyond import beyond, by_kind
from interp.probing.use.erasure import Erasers, erasers
from interp.probing.use.persistence import persistence
from interp.probing.use.steering import steer, steering_vector
from interp.probing.use.still_read import HeldOut, still_read

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
