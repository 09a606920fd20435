import json
import os
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, errors, hub_mixin
from safetensors.torch import load_file, save_file

from sartor.core.errors import WeightsError
from sartor.core.files import write_json
from sartor.models.anynet import Stage
from sartor.models.network import list_models, spec_of
from sartor.weights import from_pretrained, push_to_hub, save_pretrained
from sartor.weights.config import name_of
from sartor.weights.create import create_model

NAME = "resnet20_cifar"
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FILES = {"README.md", "config.json", "model.safetensors"}


def network(name=NAME, **options):
    torch.manual_seed(0)
    return create_model(name, **options).eval()


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    return save_pretrained(network(), tmp_path / "net")


@pytest.mark.parametrize("name", [NAME, "regnety_001_cifar"])
def test_opened_in_a_new_process_it_gives_equal_bits(tmp_path, name):
    net = network(name, num_classes=7, in_channels=1)
    save_pretrained(net, tmp_path / "net")
    save_file({"images": IMAGES[:, :1].contiguous()}, tmp_path / "images.safetensors")
    code = (
        "from safetensors.torch import load_file, save_file; from sartor.weights import from_pretrained\n"
        "net = from_pretrained('net')\n"
        "save_file({'logits': net(load_file('images.safetensors')['images']).detach()}, 'logits.safetensors')"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    with torch.inference_mode():
        assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], net(IMAGES[:, :1]))


def test_a_network_without_a_name(tmp_path):
    spec = spec_of(NAME)
    spec = spec.replace(stages=tuple(Stage(s.block, 2, 8, s.stride) for s in spec.stages), act="gelu", dropout=0.2)
    net = network(spec)
    opened = from_pretrained(save_pretrained(net, tmp_path / "net"))
    assert opened.spec == spec
    assert not opened.training
    assert torch.equal(opened(IMAGES), net(IMAGES))
    assert "architecture" not in json.loads((tmp_path / "net/config.json").read_text())


def test_the_ends_may_be_changed(folder):
    opened = from_pretrained(folder, num_classes=3, in_channels=1)
    assert opened(IMAGES[:, :1]).shape == (2, 3)
    assert opened.spec == spec_of(NAME, classes=3, channels=1)


def test_names_are_found_whatever_the_ends():
    for name in list_models()[::8]:
        spec = spec_of(name, classes=3, channels=1, size=(112, 112))
        found = name_of(spec.replace(dropout=0.5) if hasattr(spec, "dropout") else spec)
        assert spec_of(found) == spec_of(name)


def test_the_config_names_what_other_tools_read(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == NAME
    assert config["num_classes"] == 10
    assert config["pretrained_cfg"] == {
        "input_size": [3, 32, 32],
        "num_classes": 10,
        "first_conv": "conv1",
        "classifier": "fc",
    }
    assert config["spec"]["kind"] == "anynet"


def test_the_card_states_what_was_counted(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "sartor"
    assert {"sartor", "image-classification"} <= set(card.data.tags)
    assert "0.27M parameters" in card.text or "270k parameters" in card.text
    assert "from_pretrained('net')" in card.text


def test_saving_again_replaces_files_and_leaves_others(folder):
    (folder / "README.md").write_text("mine")
    (folder / "notes.txt").write_text("mine too")
    torch.manual_seed(9)
    other = create_model(NAME, num_classes=4).eval()
    save_pretrained(other, folder)
    assert {file.name for file in folder.iterdir()} == FILES | {"notes.txt"}
    assert (folder / "README.md").read_text() == "mine"
    assert torch.equal(from_pretrained(folder)(IMAGES), other(IMAGES))


def test_equal_networks_are_equal_files(folder, tmp_path):
    assert contents(save_pretrained(from_pretrained(folder), tmp_path / "again/net")) == contents(folder)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_an_interrupted_save_leaves_the_old_or_nothing(tmp_path, monkeypatch, there, step):
    target = tmp_path / "net"
    if there:
        save_pretrained(network(), target)
    before = contents(target) if there else None

    def fail(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(network("resnet32_cifar"), target)
    assert [path.name for path in tmp_path.iterdir()] == (["net"] if there else [])
    if there:
        assert contents(target) == before


def test_memory_layout_does_not_matter(tmp_path):
    net = network().to(memory_format=torch.channels_last)
    opened = from_pretrained(save_pretrained(net, tmp_path / "net"))
    assert all(torch.equal(opened.state_dict()[key], tensor) for key, tensor in net.state_dict().items())


def change(config, path, value):
    *parents, last = path
    for key in parents:
        config = config[key]
    config[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["spec", "kind"], "os.system", "unknown spec kind 'os.system'"),
        (["spec", "stages", 0, "block", "kind"], "subprocess:run", "unknown spec kind 'subprocess:run'"),
        (["spec", "stages", 0, "block"], {"kind": "anynet", "stem": {"kind": "stem", "width": 1}, "stages": []}, ""),
        (["spec", "act"], "__import__('os')", "anynet.act must be one of"),
        (["spec", "classes"], "10", "anynet.classes must be int"),
        (["spec", "evil"], 1, "unknown field 'evil'"),
        (["spec"], None, "a spec needs a 'kind'"),
        (["spec", "stages", 0, "depth"], 10**9, "more than model.safetensors can hold"),
        (["spec", "stages", 0, "width"], 10**30, "more than model.safetensors can hold"),
        (["spec", "stages", 0, "depth"], 5, "20 missing"),
        (["spec", "names"], "regnet", "do not fit"),
    ],
)
def test_hostile_configs_are_refused_in_one_line(folder, path, value, said):
    config = json.loads((folder / "config.json").read_text())
    change(config, path, value)
    write_json(folder / "config.json", config)
    with pytest.raises(WeightsError) as caught:
        from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "os.system"}, "unknown model 'os.system'"),
        ({"architecture": NAME, "num_classes": "ten"}, "config.json"),
        ({"architecture": NAME, "num_classes": 10, "input_size": [3, 32.5, 32]}, "size"),
        ({"architecture": NAME, "num_classes": 10, "input_size": 3}, "config.json"),
        ({"architecture": NAME, "num_classes": 10, "model_args": {"output_stride": 8}}, "timm's output_stride"),
        ({"architecture": ["resnet18"]}, "config.json"),
        ({"model_type": "bert"}, "config.json"),
        ([], "config.json"),
        ("[" * 100_000, "config.json"),
    ],
)
def test_other_configs_are_refused_in_one_line(folder, config, said):
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(WeightsError) as caught:
        from_pretrained(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_incomplete_folders(folder, tmp_path):
    with pytest.raises(WeightsError, match="is a file; give the folder"):
        from_pretrained(folder / "model.safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        from_pretrained(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        from_pretrained(tmp_path / "empty")


class Repository:
    """Stands for the hub's client: keeps what is uploaded."""

    def __init__(self, files=None, error=None):
        self.files, self.error, self.uploads = files, error, []

    def __call__(self, token=None):
        return self

    def model_info(self, repo, timeout=None):
        if self.files is None:
            raise errors.RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def create_repo(self, repo_id, private, exist_ok):
        if self.error:
            raise self.error
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns, **options):
        sent = {name: content for name, content in contents(folder_path).items() if name not in (ignore_patterns or ())}
        self.files = (self.files or {}) | sent
        return f"https://hub/{repo_id}/commit/1"


@pytest.fixture
def client(monkeypatch):
    def install(repository):
        monkeypatch.setattr(huggingface_hub, "HfApi", repository)
        monkeypatch.setattr(hub_mixin, "HfApi", repository)
        return repository

    return install


def test_push_uploads_what_save_writes(client, folder):
    repository = client(Repository())
    assert push_to_hub(network(), "me/net") == "https://hub/me/net/commit/1"
    saved = contents(folder)
    assert repository.files.keys() == FILES
    assert {name: repository.files[name] for name in FILES - {"README.md"}} == {
        name: saved[name] for name in FILES - {"README.md"}
    }
    assert b"from_pretrained('me/net')" in repository.files["README.md"]


def test_push_leaves_a_card_that_is_there(client):
    repository = client(Repository({"README.md": b"mine"}))
    push_to_hub(network(), "me/net")
    assert repository.files.keys() == FILES
    assert repository.files["README.md"] == b"mine"


def test_a_refused_push_is_one_line(client):
    client(Repository(error=PermissionError("403 Forbidden\nyou cannot write here")))
    with pytest.raises(WeightsError, match=r"^hub me/net: not pushed \(403 Forbidden\); check"):
        push_to_hub(network(), "me/net")
