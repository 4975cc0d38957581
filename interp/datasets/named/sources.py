"""Where each corpus comes from: repository, commit, and the sha256 of the files of each split.

Adding a corpus is adding an entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from interp.datasets.named.formats import Read, Texts, of_one
from interp.datasets.readers.columns import read_homographs
from interp.datasets.readers.conllu import read_conllu
from interp.datasets.readers.coreference import read_coreference
from interp.datasets.readers.gap import read_gap
from interp.datasets.readers.minimal import MinimalPairs, read_pairs
from interp.datasets.readers.winobias import read_winobias


@dataclass(frozen=True)
class File:
    """A file's name, and the sha256 of what it holds, unpacked."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A corpus.

    Attributes:
        repository: the public one.
        commit: that the files are of.
        folder: of the files in the repository; None where they were made from it.
        licence, annotation: in words.
        splits: files by split.
        read: from the contents of a split's files by name to the corpus.
        made: how the files were made where they are not in the repository as they are.
    """

    repository: str
    commit: str
    folder: str | None
    licence: str
    annotation: str
    splits: Mapping[str, tuple[File, ...]]
    read: Read
    made: str = ""

    def address(self, file: File) -> str | None:
        """Where the file can be fetched, of this commit."""
        if self.folder is None:
            return None
        raw = self.repository.replace("https://github.com", "https://raw.githubusercontent.com")
        return f"{raw}/{self.commit}/{self.folder}{file.name}"


def _pairs(texts: Texts, *, name: str, source: Mapping[str, str]) -> MinimalPairs:
    sets = [read_pairs(text, name=name, file=file) for file, text in texts.items()]
    return MinimalPairs(name, tuple(pair for s in sets for pair in s), source)


CORPORA: dict[str, Entry] = {
    "ud-ewt": Entry(
        repository="https://github.com/UniversalDependencies/UD_English-EWT",
        commit="15d613d8447b3478787d4c278730a1e48a945efb",
        folder="",
        licence="CC BY-SA 4.0",
        annotation="part of speech, lemmas, dependencies",
        splits={
            "train": (
                File(
                    "en_ewt-ud-train.conllu",
                    "3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b",
                ),
            ),
            "dev": (
                File(
                    "en_ewt-ud-dev.conllu",
                    "531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6",
                ),
            ),
            "test": (
                File(
                    "en_ewt-ud-test.conllu",
                    "e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd",
                ),
            ),
        },
        read=of_one(read_conllu),
    ),
    "litbank": Entry(
        repository="https://github.com/dbamman/litbank",
        commit="3e50db0ffc033d7ccbb94f4d88f6b99210328ed8",
        folder=None,
        licence="CC BY 4.0",
        annotation="coreference",
        splits={
            "all": (
                File(
                    "litbank-coref-80.conll",
                    "91873e2ba1dddbaf71f819b5e7fac00c5191836d60a44117d179309784671d13",
                ),
            ),
        },
        read=of_one(read_coreference),
        made="the files of coref/conll, sorted by name, one after another, every fifth (the first, "
        "the sixth, ...) left out",
    ),
    "gap": Entry(
        repository="https://github.com/google-research-datasets/gap-coreference",
        commit="83135f26025cdd705c04f77e940d0c9201116b80",
        folder="",
        licence="Apache-2.0",
        annotation="a pronoun and two names",
        splits={
            "development": (
                File(
                    "gap-development.tsv",
                    "b9a01434fcf58d8c2f9bc762480c27e58ce466cf1ffe8b09cfecbc7a20d2d634",
                ),
            ),
            "validation": (
                File(
                    "gap-validation.tsv",
                    "2d784f66b390404f554704b9aef6dcde8845e79dda9886b8391cf7e9a24fdb98",
                ),
            ),
        },
        read=of_one(read_gap),
    ),
    "winobias": Entry(
        repository="https://github.com/uclanlp/corefBias",
        commit="0bce984dd081bbc10b0622f326727a024c607895",
        folder="WinoBias/wino/data/",
        licence="MIT",
        annotation="a pronoun and two occupations, stereotypes",
        splits={
            "dev": (
                File(
                    "pro_stereotyped_type1.txt.dev",
                    "dd55a0d220fe4c0ceb63dd4648223fb4fe1a58d5ad95c116a002ad24b0e292a5",
                ),
                File(
                    "pro_stereotyped_type2.txt.dev",
                    "8f0250de723cea9328e3eaf7169e07936f01aa5909ce7aa580db66eb803f4e86",
                ),
                File(
                    "anti_stereotyped_type1.txt.dev",
                    "a4e0ebae344e78b56f657a42e8ae684b9db7747d177c5e7149c0907ebb7f3bf6",
                ),
                File(
                    "anti_stereotyped_type2.txt.dev",
                    "763ad829ad724f9a85ead689ba8ca69072020cb1238def6210f0fc6a47b97e59",
                ),
                File(
                    "female_occupations.txt",
                    "693bff12286c2c1d46c7d4d45a44a631574710c30b39c1a3001bb7bdebb44ed8",
                ),
                File(
                    "male_occupations.txt",
                    "6b82d88847b69d56d207a0c396e9830b031890de585e916e6b4e9bc50672657e",
                ),
            ),
        },
        read=read_winobias,
    ),
    "noun-verb": Entry(
        repository="https://github.com/google-research-datasets/noun-verb",
        commit="2c85e46bb6e8c79ff290a99e054aed2a3105eafc",
        folder="",
        licence="any purpose (LICENSE of the repository)",
        annotation="one homograph a sentence, verb or not",
        splits={
            "dev": (
                File(
                    "dev.conll", "302afe91121c8cd87a91c9a696b1088a4e498fc1012b707bc936c3d529507647"
                ),
            ),
        },
        read=of_one(read_homographs),
    ),
    "blimp": Entry(
        repository="https://github.com/alexwarstadt/blimp",
        commit="3e56b06fcabca9b30822fc66435fca6b1aa40bb1",
        folder="data/",
        licence="CC BY 4.0",
        annotation="minimal pairs, 16 paradigms",
        splits={
            "all": (
                File(
                    "anaphor_gender_agreement.jsonl",
                    "fd7d6e47196fa1310a251d3aa88ae9a62bb64d3cec35fc02617229d5799767e1",
                ),
                File(
                    "anaphor_number_agreement.jsonl",
                    "05c16b8bfe4feb5b3552dc2c53d1742ce0c91d9a1c896684335bdddd4373cc9b",
                ),
                File(
                    "determiner_noun_agreement_1.jsonl",
                    "f48065fd760d0fd1a895012860d38bdf3c2ac115cd221e521684cc430c0f1855",
                ),
                File(
                    "determiner_noun_agreement_2.jsonl",
                    "8ae7eff7c7bd384ff5ef3113984834f4d78b34559203aa9d5cb14ea8394291a9",
                ),
                File(
                    "determiner_noun_agreement_irregular_1.jsonl",
                    "4f350e88db9e29e53ae96f1f0b5991c7809fd4fd403190907330b721e1e6e264",
                ),
                File(
                    "determiner_noun_agreement_with_adj_2.jsonl",
                    "8d2828d7dfbfc3f7191024514060fedb033ea2e232304f63448c33051a85d2b3",
                ),
                File(
                    "distractor_agreement_relational_noun.jsonl",
                    "37c1553f4c6594b162256edce0f6b40bad1898b311c8aaa69605b526b6494a34",
                ),
                File(
                    "distractor_agreement_relative_clause.jsonl",
                    "854728b6db8f23f12583f7332b654835351eaedb50783e6f2a3bf6c101b8c422",
                ),
                File(
                    "irregular_plural_subject_verb_agreement_1.jsonl",
                    "0066174143671bffa54232d89254d14221afab666273edfefdfb625fbb75e226",
                ),
                File(
                    "irregular_plural_subject_verb_agreement_2.jsonl",
                    "9b22db814e7b7251f4abafe8beb9616f2f46eaa58f7cdb701cbc737cc8f1a124",
                ),
                File(
                    "principle_A_c_command.jsonl",
                    "74c8111666542c797dee1c38c9e432b0b65751dfa0faa51874a990f2cbfc76fc",
                ),
                File(
                    "principle_A_case_1.jsonl",
                    "7efb5246fe315dc2cf56b80739783cffcddee9e52650716cf5aa0f6987f7644d",
                ),
                File(
                    "principle_A_domain_1.jsonl",
                    "2276dc35a51396c7d11a401e378e0f4b31cd10d7916c73e9a361703cb96eddc5",
                ),
                File(
                    "regular_plural_subject_verb_agreement_1.jsonl",
                    "1a18d94062c8e792c0a200a3b00dff0e051a92bb084c05e9b5e5c73bee32a620",
                ),
                File(
                    "regular_plural_subject_verb_agreement_2.jsonl",
                    "e5b4668811e63b00ac4c9569cb9553281a39c21df43256905ad78e59ae24942c",
                ),
                File(
                    "wh_vs_that_with_gap.jsonl",
                    "56f1ca988a8ca368234f12359792c414fdfec2891154e3f8ce6404da1d3f3212",
                ),
            ),
        },
        read=_pairs,
    ),
    "lm-syneval": Entry(
        repository="https://github.com/BeckyMarvin/LM_syneval",
        commit="edb737877a02092807ac55e165d653108b8e1509",
        folder=None,
        licence="MIT",
        annotation="minimal pairs, 6 templates",
        splits={
            "all": (
                File(
                    "prep_anim.jsonl",
                    "bac88780cff32afe7dc8db238e4ad19590d298e2b6204d9bbb6ca5177da2e9e0",
                ),
                File(
                    "sent_comp.jsonl",
                    "0e42099dd50be641b87607d82bf444036a835ac3d0bb1248ede169dba254c1c2",
                ),
                File(
                    "simple_agrmt.jsonl",
                    "644e947e149a38cec162ff2744efc638efba198b59aed088a5fb83c3f1841523",
                ),
                File(
                    "simple_reflexives.jsonl",
                    "1e73f20c351293f686df8579846f9f075ba2f1b33ea55dd6f427724c26069080",
                ),
                File(
                    "subj_rel.jsonl",
                    "91428348713f867a48590580f245b4f55918950c6acbd2d48c06cb03b78d9254",
                ),
                File(
                    "vp_coord.jsonl",
                    "6b10b82c061d0599a58202b3d9adcc2e6b9ede2bac527fd259d836a20481fd9e",
                ),
            ),
        },
        read=_pairs,
        made="each EMNLP2018/templates/NAME.pickle (a dict from condition to list of tuples) as "
        "JSON lines {template, condition, good, bad}, in its order",
    ),
}
