"""Names of version 0.1 that stand elsewhere now: they work until 0.3, and say the new name.

`interp.circuits` was about heads and is `interp.heads`; circuits, their discovery and their proofs,
came from `interp.causal`. Modules went into rooms.
"""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ROOMS = (
    ("interp.engine", "interp.engine", "collect>plain"),
    ("interp.core", "interp.core.door", "door taken alone settings"),
    ("interp.core", "interp.core.files", "atomic sealed identity"),
    ("interp.core", "interp.core.sampling", "stats draws halves"),
    ("interp.core", "interp.core.parts", "facts sites edges graph circuit"),
    (
        "interp.core",
        "interp.core.prompts",
        "pairs aligned columns places reading sequences unknown",
    ),
    ("interp.core", "interp.core.tables", "table results scores measures attribution wide paired"),
    ("interp.models", "interp.models.finding", "find folder bounds keys place shipped stored"),
    (
        "interp.models",
        "interp.models.bridge",
        "facts points placed rotary precision activations factored tokens",
    ),
    ("interp.models", "interp.models.now", "watch fused live truth checks digest versions"),
    ("interp.models", "interp.models.small", "native recurrent training"),
    ("interp.engine", "interp.engine.network", "weights forward trace"),
    (
        "interp.engine",
        "interp.engine.plan",
        "edits score values plan>batches flops>cost memory explain",
    ),
    ("interp.engine", "interp.engine.engines", "protocol engines>choose verified resolution"),
    ("interp.engine", "interp.engine.engines.replay", "replay>wave layers stack readers>streams"),
    ("interp.engine", "interp.engine.engines.hooked", "hooks>run writes frozen>held"),
    (
        "interp.engine",
        "interp.engine.engines.recurrent",
        "recurrent>engine recurrence>lstm states>changes",
    ),
    ("interp.engine.collect", "interp.engine.plain", "prompts taps"),
    (
        "interp.engine.collect",
        "interp.engine.plain.captures",
        "capture captured kept shards folder",
    ),
    ("interp.engine.collect", "interp.engine.plain.means", "means fitter"),
    ("interp.engine", "interp.engine.sweep", "sweep block>traced run"),
    (
        "interp.engine",
        "interp.engine.circuits",
        "wiring masked rows>passes suffix>onward constants",
    ),
    ("interp.engine", "interp.engine.gradients", "gradients>tape estimates atp_star"),
    (
        "interp.datasets",
        "interp.datasets.words",
        "plain quotes naming alignment links text>running",
    ),
    (
        "interp.datasets",
        "interp.datasets.readers",
        "conllu entities brackets trees coreference columns gap winobias minimal",
    ),
    ("interp.datasets", "interp.datasets.named", "registry sources formats files"),
    ("interp.datasets", "interp.datasets.made", "templates homographs senses pronouns modifiers"),
    (
        "interp.datasets",
        "interp.datasets.tasks",
        "prompts ioi agreement greater_than subject_verb pronoun_pairs repeated recall",
    ),
    ("interp.causal", "interp.causal.ranking", "attribution effects>exact verification recovery"),
    ("interp.circuits", "interp.causal", "knockout"),
    (
        "interp.causal",
        "interp.circuits.discovery",
        "discovery>top closure acdc pruning>search worse>acdc",
    ),
    (
        "interp.causal",
        "interp.circuits.proof",
        "circuits>run setting faithfulness curves completeness nulls optimal",
    ),
    ("interp.circuits", "interp.heads.weights", "factors vocabulary qk_ov offsets composition"),
    (
        "interp.circuits",
        "interp.heads.types",
        "detectors detect nulls activation_copying head_types repeats",
    ),
    (
        "interp.circuits",
        "interp.heads.looking",
        "patterns attention words attended links relations",
    ),
    ("interp.circuits", "interp.heads", "lens"),
    ("interp.circuits", "interp.core.parts", "heads"),
    ("interp.probing", "interp.probing.read", "collect job pooling features stores given"),
    ("interp.probing", "interp.probing.fit", "linear lbfgs moments scoring"),
    (
        "interp.probing",
        "interp.probing.fit.nets",
        "adam nets examples spans training trained mixing",
    ),
    (
        "interp.probing",
        "interp.probing.ask",
        "split controls tagging tagger mdl selectivity coreference trees structural",
    ),
    (
        "interp.probing",
        "interp.probing.use",
        "erasure leace directions amnesic beyond still_read steering persistence",
    ),
    (
        "interp.figures",
        "interp.figures.drawing",
        "style heat table given drawn layered over_layers",
    ),
)
"""Old package, new package, and the modules that moved; `old>new` where one was renamed, too."""

MODULES = {
    f"{old}.{name}": f"{new}.{renamed or name}"
    for old, new, names in ROOMS
    for name, _, renamed in (each.partition(">") for each in names.split())
    if f"{old}.{name}" not in {room for _, room, _ in ROOMS}
}
"""Where each module went; not those whose room has their name."""

FACES = {
    "interp.circuits": ("interp.heads", "interp.causal"),
    "interp.causal": ("interp.circuits",),
}
"""Packages whose public names went to others."""


def name(package: str, wanted: str) -> object:
    """What a public name of a package means now that another package has it.

    Raises:
        AttributeError: none has it.
    """
    for other in FACES[package]:
        home = importlib.import_module(other)
        if wanted in home.__all__:
            _say(f"{package}.{wanted}", f"{other}.{wanted}", stacklevel=4)
            return getattr(home, wanted)
    raise AttributeError(f"module {package!r} has no attribute {wanted!r}")


class _Face(ModuleType):
    """A package where importing an old module does not hide the function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and f"{self.__name__}.{name}" in MODULES:
            homes = map(importlib.import_module, FACES.get(self.__name__, ()))
            own = vars(self).get(name)
            if not (own is None or isinstance(own, ModuleType)) or any(
                name in home.__all__ for home in homes
            ):
                return
        super().__setattr__(name, value)


class _Moved(MetaPathFinder, Loader):
    """Asked first: a package that moved would find its old modules at its new place, once more."""

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MODULES:
            return None
        sys.modules[fullname.rpartition(".")[0]].__class__ = _Face
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MODULES[spec.name]
        _say(spec.name, new, stacklevel=3)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run again; the import system has only to leave the module as it was."""
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def _say(old: str, new: str, *, stacklevel: int) -> None:
    warnings.warn(
        f"{old} is {new} now; the old name goes with version 0.3.",
        FutureWarning,
        stacklevel=stacklevel,
    )


def install() -> None:
    """Let the old modules be imported."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Moved())
