"""Preprocessing: bit-equal to torchvision's, timm's and Hugging Face's own, and its exact place."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from attnviz.errors import AttnvizWarning, PreprocessError
from attnviz.models import ImageTransform, LoadedModel, Preprocess, resolve_preprocess
from attnviz.models import preprocess as module
from attnviz.models.transforms import measure_geometry

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Real photos of packages: tall, wide, and cut to odd and to small sizes."""
    import matplotlib
    from sklearn.datasets import load_sample_image

    hopper = f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg"
    tall = np.asarray(Image.open(hopper).convert("RGB"))
    wide = np.asarray(load_sample_image("china.jpg"))
    return {
        "tall": tall,
        "wide": wide,
        "odd": wide[:, :333][:217],
        "small": tall[100:163, 200:241],
    }


def _same(ours: Preprocess, theirs: Callable, photos: dict[str, np.ndarray]) -> None:
    for name, photo in photos.items():
        tensor, geometry = ours(photo)
        expected = theirs(Image.fromarray(photo))
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected.as_subclass(torch.Tensor)), name
        assert geometry.input_size == tuple(tensor.shape[1:])
        assert geometry.image_size == photo.shape[:2]


# -- equality with the libraries' own transforms -----------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [
        "ResNet18_Weights.IMAGENET1K_V1",  # 256 > 224
        "ResNet50_Weights.IMAGENET1K_V2",  # 232 > 224
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",  # 384 > 384, bicubic
        "EfficientNet_B1_Weights.IMAGENET1K_V1",  # 256 > 240, bicubic
        "Inception_V3_Weights.IMAGENET1K_V1",  # 342 > 299
        "Swin_T_Weights.IMAGENET1K_V1",  # 232 > 224, bicubic
    ],
)
def test_torchvision_presets(weights: str, photos: dict[str, np.ndarray]) -> None:
    from torchvision import models

    kind, member = weights.split(".")
    enum = getattr(models, kind)[member]
    for given in (enum, enum.transforms()):
        ours = resolve_preprocess(given)
        assert isinstance(ours, Preprocess)
        _same(ours, enum.transforms(), photos)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "any"},
        {"crop_pct": 0.9, "interpolation": "bilinear", "mean": HALF, "std": HALF},
        {"crop_pct": 1.0, "input_size": (3, 448, 448)},
        {"crop_mode": "squash", "crop_pct": 0.95, "input_size": (3, 288, 288)},
        {"crop_mode": "border", "crop_pct": 1.0},
        {"crop_mode": "border", "crop_pct": 0.875, "input_size": (3, 192, 256)},
        {"input_size": (3, 192, 256), "crop_pct": 0.9},
        {"input_size": (3, 32, 32), "crop_pct": 1.0, "interpolation": "bilinear"},
    ],
    ids=lambda config: ", ".join(f"{k} {v}" for k, v in config.items()),
)
def test_timm_configs(config: dict, photos: dict[str, np.ndarray]) -> None:
    from timm.data import create_transform, resolve_data_config

    full = resolve_data_config(pretrained_cfg=config)
    _same(resolve_preprocess(config), create_transform(**full), photos)


def test_timm_models_state_their_own(photos: dict[str, np.ndarray]) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    for name in ("resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"):
        model = timm.create_model(name)
        expected = create_transform(**resolve_data_config(model=model))
        _same(resolve_preprocess(None, model), expected, photos)
    small = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=1)
    assert resolve_preprocess(None, small).input_size(500, 400) == (64, 96)


PROCESSORS = {
    "ViT": {},
    "Bit": {"size": {"shortest_edge": 256}},
    "CLIP": {},
    "DeiT": {},
    "Beit": {"do_center_crop": True},
    "Siglip": {},
    "Levit": {},
    "ConvNext": {"size": {"shortest_edge": 224}},
    "ConvNext ": {"size": {"shortest_edge": 384}},
    "EfficientNet": {"do_center_crop": True},
    "MobileNetV2": {},
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_hugging_face_processors(kind: str, photos: dict[str, np.ndarray]) -> None:
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, kind.strip() + "ImageProcessor")(**PROCESSORS[kind])
    ours = resolve_preprocess(processor)
    assert ours.plan is not None
    for photo in photos.values():
        tensor, geometry = ours(photo)
        expected = processor(images=Image.fromarray(photo), return_tensors="pt").pixel_values[0]
        assert torch.equal(tensor, expected)
        # an oracle that knows nothing of the settings: ramps of coordinates through the processor
        measured = measure_geometry(ours._apply, *photo.shape[:2])
        assert measured.input_size == geometry.input_size
        pixel = max(photo.shape[:2]) / min(geometry.input_size)
        assert np.abs(np.subtract(measured.crop, geometry.crop)).max() < 0.6 * pixel + 0.5


def test_torchvision_compose_runs_as_it_is(photos: dict[str, np.ndarray]) -> None:
    from torchvision.transforms import v2

    compose = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(96, antialias=True),
            v2.CenterCrop((80, 64)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(HALF, HALF),
        ]
    )
    ours = resolve_preprocess(compose)
    for photo in photos.values():
        tensor, geometry = ours(photo)
        assert torch.equal(tensor, compose(Image.fromarray(photo)).as_subclass(torch.Tensor))
        height, width = photo.shape[:2]
        assert geometry == Preprocess(resize=96, crop=(80, 64)).geometry(height, width)


# -- the place of the input on the photo -------------------------------------------------------

SPECS = {
    "shorter side": Preprocess(resize=96, crop=(80, 64)),
    "squash": Preprocess(resize=(70, 90), crop=None),
    "squash and crop": Preprocess(resize=(96, 96), crop=(81, 80)),
    "cover": Preprocess(resize=(60, 90), fit="cover", crop=(60, 90)),
    "letterbox": Preprocess(resize=(80, 80), fit="inside", crop=(80, 80), pad=(124, 116, 104)),
    "crop beyond the photo": Preprocess(resize=None, crop=(700, 701)),
    "all as it is": Preprocess(resize=None, crop=None),
    "floor": Preprocess(resize=97, crop=(80, 80), floor_crop=True),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_blob_lies_where_the_geometry_says(name: str) -> None:
    """The centre of gravity of a bright square, on the photo and on the input."""
    spec = SPECS[name]
    for height, width in ((200, 300), (301, 200), (211, 213)):
        geometry = spec.geometry(height, width)
        left, top, right, bottom = geometry.crop
        # 30 pixels of the photo around a point that the input shows
        x = (max(left, 0) * 0.4 + min(right, width) * 0.6) // 1
        y = (max(top, 0) * 0.6 + min(bottom, height) * 0.4) // 1
        photo = np.zeros((height, width, 3), np.uint8)
        photo[int(y) - 15 : int(y) + 15, int(x) - 15 : int(x) + 15] = 255
        tensor, placed = Preprocess(
            **{**vars(spec), "mean": (0, 0, 0), "std": (1, 1, 1), "pad": (0, 0, 0)}
        )(photo)
        assert placed == geometry
        weight = tensor[0].double()
        total = weight.sum()
        rows = torch.arange(weight.shape[0]) + 0.5
        columns = torch.arange(weight.shape[1]) + 0.5
        found = (weight.sum(0) @ columns.double() / total, weight.sum(1) @ rows.double() / total)
        expected = geometry.to_input(x, y)
        assert np.abs(np.subtract(found, expected)).max() < 0.02
        back = geometry.to_image(*expected)
        assert back == pytest.approx((x, y), abs=1e-9)


@pytest.mark.parametrize("name", SPECS)
def test_measured_geometry_is_the_planned_one(name: str) -> None:
    spec = SPECS[name]
    for height, width in ((480, 640), (333, 217)):
        planned = spec.geometry(height, width)
        measured = measure_geometry(lambda photo: spec(photo)[0], height, width)
        scale = (planned.crop[2] - planned.crop[0]) / planned.input_size[1]
        assert measured.input_size == planned.input_size
        assert np.abs(np.subtract(measured.crop, planned.crop)).max() < 0.25 * scale + 0.5


def test_extreme_photos() -> None:
    spec = Preprocess()
    for height, width in ((1, 1), (1, 4000), (5000, 3), (2, 7)):
        photo = np.full((height, width, 3), 200, np.uint8)
        tensor, geometry = spec(photo)
        assert tensor.shape == (3, 224, 224)
        expected = (200 / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
        assert torch.allclose(tensor, expected.view(3, 1, 1).expand_as(tensor), atol=1e-6)
        assert geometry.image_size == (height, width)
    with pytest.raises(PreprocessError, match="give the preprocessing a crop"):
        Preprocess(crop=None)(np.zeros((1, 400_000, 3), np.uint8))


def test_resizing_a_part_is_resizing_all(
    photos: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for spec, photo in itertools.product(SPECS.values(), photos.values()):
        if spec.resize is None or spec.crop is None:
            continue
        whole, geometry = spec(photo)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_MOST_PIXELS", spec.crop[0] * spec.crop[1])
            part, same = spec(photo)
        assert same == geometry
        step = 1 / 255 / min(spec.std)  # Pillow takes the part's corner in single precision
        assert (whole - part).abs().max() <= step + 1e-6


def test_the_photo_is_not_changed(photos: dict[str, np.ndarray]) -> None:
    photo = photos["small"].copy()
    photo.setflags(write=False)
    tensor, _ = Preprocess(resize=None, crop=None, mean=(0, 0, 0), std=(1, 1, 1))(photo)
    tensor.add_(1)
    assert np.array_equal(photo, photos["small"])


# -- functions of unknown kind -----------------------------------------------------------------


def test_an_opaque_function_is_measured() -> None:
    from torchvision.transforms import functional as F

    def mine(photo: Image.Image) -> torch.Tensor:
        return F.to_tensor(F.center_crop(F.resize(photo, 60), [50, 40])) * 255 - 100

    ours = resolve_preprocess(mine)
    photo = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    tensor, geometry = ours(photo)
    assert torch.equal(tensor, mine(Image.fromarray(photo)))
    planned = Preprocess(resize=60, crop=(50, 40)).geometry(300, 200)
    assert np.abs(np.subtract(geometry.crop, planned.crop)).max() < 1.0
    assert "mine" in ours.describe()


def test_what_is_no_resize_warns() -> None:
    from torchvision.transforms import functional as F

    ours = resolve_preprocess(lambda photo: F.to_tensor(F.hflip(F.resize(photo, [32, 32]))))
    with pytest.warns(AttnvizWarning, match="taken to show the whole photo"):
        _, geometry = ours(np.zeros((100, 80, 3), np.uint8))
    assert geometry.crop == (0, 0, 80, 100)
    assert geometry.input_size == (32, 32)


def test_a_random_transform_is_an_error() -> None:
    from torchvision import transforms as T

    ours = resolve_preprocess(T.Compose([T.RandomResizedCrop(32), T.ToTensor()]))
    with pytest.raises(PreprocessError, match="random .* pass the evaluation transform"):
        ours(np.zeros((100, 80, 3), np.uint8))


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda photo: photo, "must give a tensor"),
        (lambda photo: torch.zeros(2, 8, 8), r"must give a tensor \(3, h, w\), got \(2, 8, 8\)"),
        (lambda photo: torch.zeros(3, 8, 8, dtype=torch.uint8), "torch.uint8 values"),
        (lambda photo: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_functions_that_fail(function: Callable, match: str) -> None:
    with pytest.raises(PreprocessError, match=match):
        resolve_preprocess(function)(np.zeros((10, 10, 3), np.uint8))


# -- which one holds ---------------------------------------------------------------------------


def test_order_of_sources() -> None:
    import timm

    model = timm.create_model("resnet10t")
    own = Preprocess(resize=100, crop=(90, 90), name="own")
    loaded = LoadedModel(model, "x", own)
    given = Preprocess(resize=50, crop=None)
    assert resolve_preprocess(given, model, loaded) is given
    assert resolve_preprocess(None, model, loaded) is own
    assert resolve_preprocess(None, model).name == "timm config of resnet10t"
    assert resolve_preprocess("imagenet", model, loaded).describe() == (
        "imagenet: resize shorter side to 256 (bilinear), centre crop 224 x 224, "
        "mean (0.485, 0.456, 0.406), deviation (0.229, 0.224, 0.225)"
    )


def test_never_a_silent_guess() -> None:
    from torchvision.models import resnet18

    with pytest.raises(PreprocessError, match=r'ResNet is not known; pass preprocess="imagenet"'):
        resolve_preprocess(None, resnet18())
    with pytest.raises(PreprocessError, match=r"'imagenet' or|did you mean 'imagenet'"):
        resolve_preprocess("imagnet")
    with pytest.raises(PreprocessError, match="type int is not known"):
        resolve_preprocess(224)
    with pytest.raises(PreprocessError, match=r"inputs of \(4, 28, 28\)"):
        resolve_preprocess({"input_size": (4, 28, 28)})


@pytest.mark.parametrize(
    "fields",
    [
        {"interpolation": "cubic"},
        {"fit": "stretch"},
        {"std": (0.2, 0.0, 0.2)},
        {"mean": (0.5,)},
        {"resize": 0},
        {"resize": (1, 2, 3)},
        {"crop": (0, 5)},
        {"crop": (5,)},
    ],
)
def test_senseless_values_are_errors(fields: dict) -> None:
    with pytest.raises(PreprocessError):
        Preprocess(**fields)


@pytest.mark.parametrize(
    "image",
    [
        "photo.jpg",
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_photo_is_an_error(image: object) -> None:
    for spec in (Preprocess(), ImageTransform(lambda photo: photo, "x")):
        with pytest.raises(PreprocessError, match="uint8 RGB"):
            spec(image)
