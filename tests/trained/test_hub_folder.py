"""A trained model as a folder in the hub's form: written whole, loaded as a run is, and refused where its files disagree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import mpssl_fed
from mpssl_fed.data.datasets import Images
from mpssl_fed.dossier.publish import publish
from mpssl_fed.errors import UserError
from mpssl_fed.trained import Trained, load_trained
from tests.trained.conftest import save

Cli = Callable[..., tuple[int, str, str]]
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def folder_of_model(run: mpssl_fed.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(run.folder, tmp_path_factory.mktemp("hub") / "model").folder


@pytest.fixture
def mine(folder_of_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of_model, tmp_path / "model"))


def test_the_three_files_say_what_the_model_is(folder_of_model: Path, run: mpssl_fed.Run, trained: Trained) -> None:
    assert sorted(file.name for file in folder_of_model.iterdir()) == FILES
    assert (folder_of_model / "model.safetensors").read_bytes() == trained.file.read_bytes()
    config = json.loads((folder_of_model / "config.json").read_text())
    assert config["id2label"] == {str(i): str(i) for i in range(10)}
    assert config["label2id"]["7"] == 7
    assert (config["model_type"], config["num_labels"], config["image_size"], config["num_channels"]) == ("mpssl-fed", 10, 32, 1)
    assert config["architecture"] == trained.classifier.architecture()
    assert config["preprocessing"]["pads_28"] is True
    _, front, text = (folder_of_model / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["library_name"] == "mpssl-fed"
    measured = {one["type"]: one["value"] for one in head["model-index"][0]["results"][0]["metrics"]}
    assert measured["accuracy"] == run.accuracy
    assert "# Model card: small-cnn on mnist-5k" in text
    for file in folder_of_model.iterdir():
        assert str(run.folder) not in file.read_bytes().decode(errors="replace")


def test_it_is_loaded_as_its_run_is(folder_of_model: Path, trained: Trained, held_out: Images, cli: Cli, tmp_path: Path) -> None:
    again = load_trained(folder_of_model, "cpu")
    assert torch.equal(again.logits(held_out.x), trained.logits(held_out.x))
    assert again.preparation == trained.preparation
    assert mpssl_fed.load(folder_of_model).architecture() == trained.classifier.architecture()
    image = save(held_out.x[0], tmp_path / "one.png")
    answers = [json.loads(cli("predict", where, image, "--json")[1]) for where in (folder_of_model, trained.file.parent)]
    assert answers[0] == answers[1]


def test_the_hub_s_cache_is_a_folder_of_links(folder_of_model: Path, trained: Trained, held_out: Images, tmp_path: Path) -> None:
    repo = tmp_path / "models--owner--digits"
    for folder in ("refs", "blobs", "snapshots/c0ffee"):
        (repo / folder).mkdir(parents=True)
    for file in folder_of_model.iterdir():
        shutil.copy(file, repo / "blobs" / file.name[::-1])
        (repo / "snapshots" / "c0ffee" / file.name).symlink_to(Path("../../blobs") / file.name[::-1])
    (repo / "refs" / "main").write_text("c0ffee")
    for place in (repo, repo / "snapshots" / "c0ffee"):
        assert torch.equal(load_trained(place, "cpu").logits(held_out.x), trained.logits(held_out.x))
    assert mpssl_fed.load(repo).classes == trained.classes
    (repo / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(UserError, match=r"refs/main: '\.\./\.\./elsewhere' is no name of a snapshot"):
        mpssl_fed.load(repo)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"model_type": 1, "model_type": 2}'])
def test_a_config_that_is_damaged_is_named_itself(mine: Path, text: str) -> None:
    (mine / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: no readable JSON"):
        mpssl_fed.load(mine)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("config.json", r"config\.json: its architecture is not that in the header of model\.safetensors beside it"),
        ("model.safetensors", r"model\.safetensors: no such file"),
    ],
)
def test_a_file_that_is_missing_or_another_model_s(mine: Path, file: str, words: str) -> None:
    if file == "config.json":
        config = json.loads((mine / file).read_text())
        config["architecture"]["classes"] = [f"not {name}" for name in config["architecture"]["classes"]]
        (mine / file).write_text(json.dumps(config))
    else:
        (mine / file).unlink()
    with pytest.raises(UserError, match=words):
        mpssl_fed.load(mine)


def test_a_config_of_something_else_is_left_alone(mine: Path) -> None:
    for text in ('{"model_type": "vit"}', "[]"):
        (mine / "config.json").write_text(text)
        assert mpssl_fed.load(mine).classes == tuple("0123456789")


def test_the_command_replaces_its_files_alone(run: mpssl_fed.Run, mine: Path, cli: Cli) -> None:
    form = ("export", run.folder, "--format", "hub")
    code, _, error = cli(*form)
    assert code == 2
    assert "--format hub writes a folder; name it by --out DIR" in error
    code, _, error = cli(*form, "--out", mine)
    assert code == 2
    assert "exists; choose another folder or add --overwrite" in error
    (mine / "README.md").write_text("my own words")
    (mine / "config.json").unlink()
    (mine / "notes.txt").write_text("kept")
    code, said, error = cli(*form, "--out", mine, "--overwrite")
    assert code == 0, error
    assert "README.md: is your own and stays" in error
    assert (mine / "README.md").read_text() == "my own words"
    assert sorted(file.name for file in mine.iterdir()) == [*FILES, "notes.txt"]
    assert str(mine) in said
    own = "is the run's own"
    for where, words in ((run.folder, own), (run.folder / "sites" / "0", own), (mine / FILES[1], "exists")):
        code, _, error = cli(*form, "--out", where, "--overwrite")
        assert code == 2
        assert words in error
    code, _, error = cli("export", mine / "model.safetensors", "--format", "hub", "--out", mine / "x")
    assert code == 2
    assert "name a run directory" in error
