"""Names of checkpoints: local ones first; hub ones against a server in this process, and offline."""

import hashlib
import json
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from sartor.core.errors import WeightsError
from sartor.weights import from_pretrained
from sartor.weights.create import create_model
from sartor.weights.locate import find_config, find_weights

NAME = "timm/resnet20_cifar.test"


class Hub:
    """A hub with one repository; ``files`` maps names to contents, ``asked`` lists the requests."""

    def __init__(self):
        self.files, self.asked, self.status = {}, [], {}

    @property
    def commit(self):
        return hashlib.sha1(b"".join(self.files.values())).hexdigest()

    def answer(self, path):
        """Status, headers and content of a request."""
        self.asked.append(path)
        for part, status in self.status.items():
            if part in path:
                return status
        if path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {}, json.dumps({"id": NAME, "sha": self.commit, "siblings": siblings}).encode()
        name = path.rpartition("/")[2]
        if path == f"/{NAME}/resolve/main/{name}" and name in self.files:
            etag = hashlib.sha256(self.files[name]).hexdigest()
            return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit}, self.files[name]
        return 404, {"X-Error-Code": "EntryNotFound"}, b""


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, content = hub.answer(self.path.partition("?")[0])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    return Handler


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "disabled", True)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache, monkeypatch):
    """A reachable hub."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    yield hub
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def offline(cache, monkeypatch):
    """No hub to reach."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def network():
    torch.manual_seed(0)
    return create_model("resnet20_cifar").eval()


def refused(source, find=find_weights):
    with pytest.raises(WeightsError) as caught:
        find(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_and_folders_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm/net.pth").touch()
    assert find_weights("timm/net.pth").samefile(tmp_path / "timm/net.pth")
    (tmp_path / "timm/pytorch_model.bin").touch()
    assert find_weights("timm").name == "pytorch_model.bin"
    (tmp_path / "timm/model.safetensors").touch()
    assert find_weights(tmp_path / "timm").name == "model.safetensors"
    assert "has no config.json" in refused("timm", find_config)


@pytest.mark.parametrize(
    "source", ["net.pth", "timm/net.pth", "resnet50", "a/b/c", "../x", "https://x.org/a", "", "a b/c"]
)
def test_what_is_neither_here_nor_a_hub_name(source, cache):
    assert "no such file or folder, and not a hub name such as timm/" in refused(source + ".safetensors")
    if source:
        assert "no such file or folder" in refused(source)


def test_a_name_the_hub_would_not_take(cache):
    assert "not a hub name" in refused("timm/" + "x" * 100)


def test_safetensors_are_preferred(hub):
    net = network()
    hub.files = {"pytorch_model.bin": b"never asked for", "model.safetensors": save(net.state_dict()), "README.md": b""}
    loaded = create_model("resnet20_cifar", weights=f"hf-hub:{NAME}")
    assert torch.equal(loaded.conv1.weight, net.conv1.weight)
    assert not any("bin" in path for path in hub.asked)


def test_pickles_are_read_as_weights_only(hub, tmp_path):
    net = network()
    torch.save(net.state_dict(), tmp_path / "weights")
    hub.files = {"pytorch_model.bin": (tmp_path / "weights").read_bytes()}
    assert torch.equal(create_model("resnet20_cifar", weights=NAME).conv1.weight, net.conv1.weight)
    torch.save(net, tmp_path / "weights")
    hub.files = {"pytorch_model.bin": (tmp_path / "weights").read_bytes()}
    with pytest.raises(WeightsError, match="refused"):
        create_model("resnet20_cifar", weights=NAME)


def test_timms_config_is_understood(hub):
    net = network()
    config = {"architecture": "resnet20_cifar", "num_classes": 10, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    hub.files = {"model.safetensors": save(net.state_dict()), "config.json": json.dumps(config).encode()}
    opened = from_pretrained(NAME)
    assert opened.spec == net.spec
    assert not opened.training


def test_what_was_fetched_once_opens_offline(hub, monkeypatch):
    hub.files = {"model.safetensors": save(network().state_dict())}
    fetched = find_weights(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert find_weights(NAME) == fetched
    assert len(hub.asked) == asked


def test_an_unreachable_hub_is_one_line(offline, cache):
    message = refused(NAME)
    assert NAME in message
    assert f"its cache {cache} has no copy" in message
    assert "give a local file" in message


def test_repositories_that_cannot_be_read(hub):
    hub.files = {"README.md": b""}
    assert "has no model.safetensors or pytorch_model.bin" in refused(NAME)
    hub.status = {"/api/": (404, {"X-Error-Code": "RepoNotFound"}, b"")}
    assert "not on the hub, or private" in refused(NAME)
    hub.status = {"/api/": (404, {"X-Error-Code": "RevisionNotFound"}, b"")}
    assert "no revision 'v2'" in refused(f"{NAME}@v2")
    hub.files = {"model.safetensors": b""}
    hub.status = {"resolve": (403, {"X-Error-Code": "GatedRepo"}, b"")}
    assert "must grant access" in refused(NAME)
