"""Training: it learns, it says so, the same call gives the same bytes, and it can be stopped."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import ModelError
from interp.core.prompts.sequences import UNSCORED
from interp.datasets.tasks.recall import recall
from interp.datasets.tasks.repeated import repeated
from interp.models import toy
from interp.models.small.native import Shape, build
from interp.models.small.recurrent import RecurrentShape, build_recurrent
from interp.models.small.training import Recipe, answers, log_steps, update
from interp.models.toy import INDUCTION, Toy, train

SHAPE = Shape(
    n_layers=1, n_heads=2, d_model=12, d_head=6, d_vocab=14, n_ctx=16, d_mlp=0, positions="rotary"
)
RECIPE = Recipe(batch=16, learning_rate=0.02, warmup=5)
DATA = recall(300, vocabulary=14, pairs=2, pos=12)
HELD_OUT = recall(60, vocabulary=14, pairs=2, pos=12, seed=1)


def trained(folder: Path, **options: object) -> Toy:
    given = {"shape": SHAPE, "steps": 30, "recipe": RECIPE, "checkpoints": 5} | options
    return train(given.pop("shape"), DATA, held_out=HELD_OUT, folder=folder, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Toy:
    return trained(tmp_path_factory.mktemp("whole"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_it_learns(whole):
    """At first no better than guessing; then at least that one half of the ids are values."""
    first, last = whole.curve.iloc[0], whole.curve.iloc[-1]
    assert abs(first["loss"] - math.log(14)) < 0.5
    assert last["loss"] < math.log(7) + 0.1
    assert math.isnan(first["train_loss"])
    assert abs(last["train_loss"] - last["loss"]) < 0.5


def test_checkpoints_lie_at_equal_ratios_and_load(whole):
    assert whole.steps == (0, 1, 2, 5, 13, 30)
    assert sorted(path.name for path in whole.folder.glob("step-*")) == [
        f"step-{step:06d}" for step in whole.steps
    ]
    assert whole.at(0).weight_hash == build(SHAPE, name="x").weight_hash
    hashes = {whole.at(step).weight_hash for step in whole.steps}
    assert len(hashes) == 6
    assert interp.load(whole.folder / "step-000013").weight_hash in hashes
    assert not (whole.folder / "progress.safetensors").exists()


def test_the_curve_is_what_the_checkpoints_say(whole):
    for step in (0, 13, 30):
        said = answers(whole.at(step).bridge.original_model, HELD_OUT)
        row = whole.curve.set_index("step").loc[step]
        assert abs(row["loss"] - said.mean_loss) < 1e-6
        assert row["accuracy"] == said.accuracy


def test_answers_by_hand(whole):
    """Cross-entropy and the highest logit, position by position, from the bridge's logits."""
    model = whole.model
    said = answers(model.bridge.original_model, HELD_OUT)
    logits = model.bridge(HELD_OUT.tokens).double()
    for row in range(0, 60, 7):
        for pos in range(12):
            label = int(HELD_OUT.labels[row, pos])
            if label == UNSCORED:
                assert math.isnan(said.loss[row, pos])
                assert not said.correct[row, pos]
            else:
                scores = logits[row, pos].tolist()
                loss = math.log(sum(map(math.exp, scores))) - scores[label]
                assert abs(said.loss[row, pos] - loss) < 1e-5
                assert said.correct[row, pos] == (scores.index(max(scores)) == label)


def test_only_scored_positions_teach():
    """The loss of a step is the mean at the queries; what follows the last teaches nothing."""
    row = DATA.select([0])
    model = build(SHAPE, name="x")
    module = model.bridge.original_model.requires_grad_(True)
    said = answers(module, row)
    loss = update(module, RECIPE.optimizer(module), row, recipe=RECIPE, step=0, steps=9, seed=0)
    assert said.loss[row.scored].mean().item() == pytest.approx(loss, abs=1e-6)
    last = int(row.scored[0].nonzero().max())
    embedding = model.truth.parameters()["tok_embed.weight"].grad
    unread = set(row.tokens[0, last + 1 :].tolist()) - set(row.tokens[0, : last + 1].tolist())
    assert unread
    for token in range(14):
        assert (embedding[token].abs().max() == 0) == (token not in row.tokens[0, : last + 1])


def test_the_same_call_gives_the_same_bytes(whole, tmp_path):
    assert contents(trained(tmp_path).folder) == contents(whole.folder)


@pytest.mark.plain
def test_seeds_of_weights_and_of_rows_are_apart(whole, tmp_path):
    other = trained(tmp_path / "weights", seed=1)
    assert other.at(0).weight_hash != whole.at(0).weight_hash
    rows = trained(tmp_path / "rows", data_seed=1)
    assert rows.at(0).weight_hash == whole.at(0).weight_hash
    assert rows.at(1).weight_hash != whole.at(1).weight_hash


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [0, 7, 29])
def test_stopped_and_called_again_it_ends_in_the_same_bytes(after, whole, tmp_path, monkeypatch):
    def until(*args: object, step: int, **rest: object) -> float:
        if step == after:
            raise Stopped
        return update(*args, step=step, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(toy, "update", until)
        with pytest.raises(Stopped):
            trained(tmp_path)
    assert not (tmp_path / "curve.csv").exists()
    steps: list[int] = []

    def counted(*args: object, step: int, **rest: object) -> float:
        steps.append(step)
        return update(*args, step=step, **rest)

    monkeypatch.setattr(toy, "update", counted)
    assert contents(trained(tmp_path).folder) == contents(whole.folder)
    assert steps[0] == max(step for step in whole.steps if step <= after)


def test_what_is_finished_is_not_trained_again(whole, monkeypatch):
    monkeypatch.setattr(toy, "update", None)
    again = trained(whole.folder)
    assert again.curve.equals(whole.curve)
    assert again.steps == whole.steps


def test_a_folder_of_another_config_is_refused(whole):
    before = contents(whole.folder)
    with pytest.raises(
        ModelError,
        match=r"belongs to another training: seed differ \(seed was 0 and is 3\)\. Choose",
    ):
        trained(whole.folder, seed=3)
    with pytest.raises(ModelError, match="recipe, shape differ"):
        trained(whole.folder, recipe=Recipe(), shape=replace(SHAPE, n_heads=4))
    assert contents(whole.folder) == before


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(
        ModelError, match=r"config\.json carries no checksum of interp: .*Choose another folder"
    ):
        trained(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "progress.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"progress\.safetensors carries no checksum.*train anew"):
        trained(tmp_path)


def test_divergence_is_said_and_the_last_good_checkpoint_kept(tmp_path):
    wild = Recipe(batch=16, learning_rate=1e4, warmup=0)
    with pytest.raises(
        ModelError,
        match=r"diverged at step (\d+): the loss is .*guessing has 2\.64.*checkpoint is "
        r"step-00000\d in .*learning_rate=10000\.0 is too high",
    ):
        trained(tmp_path, recipe=wild)
    kept = sorted(tmp_path.glob("step-*"))
    assert kept
    for folder in kept:
        said = answers(interp.load(folder).bridge.original_model, HELD_OUT)
        assert said.mean_loss < 10 * math.log(14)
    assert not (tmp_path / "curve.csv").exists()


def test_rows_that_the_shape_cannot_read(tmp_path):
    with pytest.raises(ModelError, match="rows of sequences have 12 tokens and the shape reads 8"):
        trained(tmp_path, shape=replace(SHAPE, n_ctx=8))
    with pytest.raises(ModelError, match=r"sequences has ids from 1 to 13, .* 0 to 11"):
        trained(tmp_path, shape=replace(SHAPE, d_vocab=12))
    assert not list(tmp_path.iterdir())


def test_a_step_that_was_not_kept(whole):
    with pytest.raises(ModelError, match=r"no checkpoint at step 4; there are those at 0, 1, 2, 5"):
        whole.at(4)


def test_smeared_keys_learn_how_much(tmp_path):
    smeared = trained(tmp_path, shape=replace(SHAPE, smear=True)).model
    alpha = smeared.truth.parameters()["layers.0.attn.k.alpha"]
    assert alpha.shape == (2,)
    assert alpha.abs().min() > 1e-3


def test_an_lstm_is_trained_by_the_same_call(tmp_path):
    shape = RecurrentShape(n_layers=1, d_model=10, d_vocab=14, n_ctx=12)
    found = trained(tmp_path, shape=shape)
    assert found.curve["loss"].iloc[-1] < found.curve["loss"].iloc[0] - 0.3
    assert found.at(0).weight_hash == build_recurrent(shape, name="x").weight_hash
    assert found.model.facts.recurrent
    again = trained(tmp_path, shape=shape)
    assert again.curve.equals(found.curve)


def test_recipes():
    recipe = Recipe(warmup=10, learning_rate=2.0)
    rates = [recipe.rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert rates[100] == pytest.approx(0.2)
    assert log_steps(1000, 4) == [0, 1, 10, 100, 1000]
    with pytest.raises(ArgumentError, match="learning_rate=0.0, and learning_rate .* above 0"):
        Recipe(learning_rate=0.0)
    with pytest.raises(ArgumentError, match="steps=0, and steps takes .* at least 1"):
        log_steps(0, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "learns"),
    [({}, True), ({"n_layers": 1}, False), ({"n_layers": 1, "smear": True}, True)],
)
def test_the_phase_change(options, learns, tmp_path):
    """Two layers form induction, one does not, one with smeared keys does (Olsson et al. 2022)."""
    data, held_out = (
        repeated(n, vocabulary=48, pos=48, seed=s) for n, s in ((20_000, 0), (256, 1))
    )
    found = train(
        replace(INDUCTION, **options), data, held_out=held_out, steps=500, folder=tmp_path
    )
    accuracy = found.curve["accuracy"].iloc[-1]
    assert accuracy > 0.99 if learns else accuracy < 0.45
