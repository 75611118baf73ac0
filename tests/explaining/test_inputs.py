"""Whatever holds the images, all of them are explained, and each as by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms

import attnviz
from attnviz.errors import ImageError, TargetError
from attnviz.inputs import gather


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


def explain(model, images, **options):
    return attnviz.explain(model, images, layer="1", target=options.pop("target", 2), **options)


def test_a_list_of_batches_gives_every_map(model):
    x, y = torch.rand(4, 3, 12, 16), torch.rand(3, 3, 12, 16)
    expected = explain(model, torch.cat([x, y])).values
    torch.testing.assert_close(explain(model, [x, y]).values, expected)
    torch.testing.assert_close(explain(model, (x, y), batch_size=2).values, expected)
    torch.testing.assert_close(explain(model, [x[0], x[1]]).values, expected[:2])
    torch.testing.assert_close(explain(model, x.numpy()).values, expected[:4])
    targets = explain(model, [x, y], target=[*range(5), 0, 1])
    assert targets.target == (0, 1, 2, 3, 4, 0, 1)


def test_samples_loaders_and_data_sets_give_the_map_of_each_image(model):
    x, labels = torch.rand(7, 3, 12, 16), torch.arange(7)
    expected = explain(model, x).values
    data = TensorDataset(x, labels)
    loader = DataLoader(data, batch_size=3)
    for given in (loader, data, (x, labels), [(x[:3], labels[:3]), (x[3:], labels[3:])],
                  [data[i] for i in range(7)], (row for row in x)):  # fmt: skip
        torch.testing.assert_close(explain(model, given).values, expected)
    masks = torch.rand(7, 1, 12, 16)
    torch.testing.assert_close(explain(model, (x, masks)).values, expected)
    photos = [(np.full((12, 16, 3), 40 * i, np.uint8), i) for i in range(3)]
    maps = explain(
        model,
        photos,
        preprocess=lambda a: torch.tensor(np.asarray(a) / 255).permute(2, 0, 1).float(),
    )
    assert len(maps) == 3


def test_what_makes_no_batch_is_refused(model):
    with pytest.raises(ImageError, match="unlike shapes"):
        explain(model, [torch.rand(2, 3, 12, 16), torch.rand(2, 3, 12, 12)])
    with pytest.raises(ImageError, match=r"\(B, C, H, W\) with B > 0, got \(12, 16\)"):
        explain(model, torch.rand(12, 16))
    with pytest.raises(ImageError, match="no images given"):
        explain(model, [])
    with pytest.raises(ImageError, match=r"Sequential is a float tensor \(B, C, H, W\)"):
        explain(model, torch.rand(0, 3, 12, 16))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8 + 2, 5)

    def forward(self, image, facts):
        return self.head(torch.cat([self.conv(image).relu().mean((2, 3)), facts], 1))


def test_several_inputs_by_position_or_name_equal_the_gradient_by_hand():
    torch.manual_seed(1)
    model = Two().eval()
    image, facts = torch.rand(5, 3, 12, 10), torch.rand(5, 2)
    activation = model.conv(image).detach().requires_grad_()
    logits = model.head(torch.cat([activation.relu().mean((2, 3)), facts], 1))
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), activation)
    by_hand = (gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu().detach()
    for given in ((image, facts), {"image": image, "facts": facts}):
        for size in (32, 2):
            maps = attnviz.explain(model, given, layer="conv", target=3, batch_size=size)
            torch.testing.assert_close(maps.values, by_hand)
            torch.testing.assert_close(maps.logits, logits.detach())


def test_the_default_layer_is_found_on_inputs_that_only_this_model_takes():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
            self.head = nn.Linear(4 * 49 * 39, 3)

        def forward(self, x):
            return self.head(self.features(x).flatten(1))

    maps = attnviz.explain(Fixed().eval(), torch.rand(2, 3, 100, 80), target=1)
    assert maps.layer.startswith("features")
    assert maps.values.shape == (2, 49, 39)


def test_a_folder_is_its_photos(tmp_path: Path) -> None:
    for name, tone in (("b.png", 200), ("a.png", 30)):
        Image.fromarray(np.full((8, 8, 3), tone, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    net = nn.Conv2d(3, 2, 1)
    assert gather(str(tmp_path), net) == [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(ImageError, match="no image in folder"):
        (tmp_path / "none").mkdir()
        gather(tmp_path / "none", net)


def test_mappings_that_do_not_fit_say_which_arguments_the_model_takes(model):
    x = torch.rand(4, 3, 12, 16)
    for given in ({"image": x, "label": torch.zeros(4)}, [{"image": x[0]}, {"image": x[1]}]):
        with pytest.raises(ImageError, match=r"Sequential.forward\(input\).* batch\['image'\]"):
            attnviz.explain(model, given, target=2)


def test_batches_and_samples_of_mappings_are_explained_whole():
    torch.manual_seed(1)
    model = Two().eval()
    image, facts = torch.rand(5, 3, 12, 10), torch.rand(5, 2)
    expected = attnviz.explain(model, (image, facts), layer="conv", target=3).values
    samples = [{"image": i, "facts": f} for i, f in zip(image, facts, strict=True)]
    for given in (samples, DataLoader(samples, batch_size=2)):
        maps = attnviz.explain(model, given, layer="conv", target=3)
        torch.testing.assert_close(maps.values, expected)


def test_mappings_that_make_no_batch_are_refused():
    model, one = Two().eval(), {"image": torch.rand(3, 12, 10), "facts": torch.rand(2)}
    numbers = [one | {"facts": 3}, one | {"facts": 4}]  # the first one's would go for both
    with pytest.raises(ImageError, match="'facts' differs"):
        attnviz.explain(model, numbers, layer="conv")
    for other in ({"image": one["image"]}, one | {"image": torch.rand(3, 9, 10)}):
        with pytest.raises(ImageError, match="unlike and make no batch"):
            attnviz.explain(model, [one, other], layer="conv")


def test_a_model_that_squeezes_a_batch_of_one_gives_each_image_its_own_map():
    class Squeezing(nn.Module):
        def __init__(self, classes):
            super().__init__()
            torch.manual_seed(classes)
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, classes)

        def forward(self, x):
            return self.head(self.conv(x).relu().mean((2, 3))).squeeze()

    x = torch.rand(4, 3, 12, 16)
    for classes in (1, 5):
        model = Squeezing(classes).eval()
        for method in ("gradcam", "saliency", "scorecam"):
            options = {"target": 1, "method": method, "layer": "conv"}
            together = attnviz.explain(model, x, **options)
            for size in (1, 3):  # 3 leaves a single image for the last batch
                maps = attnviz.explain(model, x, batch_size=size, **options)
                torch.testing.assert_close(maps.values, together.values)
                torch.testing.assert_close(maps.score, together.score)


def test_an_output_without_a_row_for_each_image_is_refused(model):
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x).mean(0)

    with pytest.raises(TargetError, match=r"\(5,\) for a batch of 4; expected \(4, classes\)"):
        attnviz.explain(Loss(), torch.rand(4, 3, 12, 16), layer="net.1")


def test_a_network_of_one_channel_sees_photos_in_grey():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    photo = Image.fromarray((np.random.default_rng(0).random((30, 40, 3)) * 255).astype("uint8"))
    own = attnviz.models.Preprocess(resize=None, crop=None, mean=(0.4,), std=(0.2,))
    grey = torch.from_numpy(np.asarray(photo.convert("L")) / 255.0).float()[None, None]
    expected = attnviz.explain(net, (grey - 0.4) / 0.2, layer="1", target=2).values
    compose = transforms.Compose(
        [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize(0.4, 0.2)]
    )
    for given in (own, compose):
        maps = attnviz.explain(net, photo, layer="1", target=2, preprocess=given)
        torch.testing.assert_close(maps.values, expected)
        assert maps.geometry[0].crop == pytest.approx((0, 0, 40, 30), abs=0.5)
    maps = attnviz.explain(net, photo, layer="1", target=2, preprocess="imagenet")
    assert "in grey (0.299 R + 0.587 G + 0.114 B), mean (0.449)" in maps.meta["preprocess"]
    colour = attnviz.models.Preprocess(resize=None, crop=None)
    with pytest.raises(ImageError, match=r"where Sequential takes 1.*Preprocess\(mean=\(m,\)"):
        attnviz.explain(net, photo, layer="1", target=2, preprocess=colour)


def test_a_squeezed_single_logit_has_a_default_layer():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 1)

        def forward(self, x):
            return self.head(self.conv(x).relu().mean((2, 3))).squeeze()

    assert attnviz.explain(Squeezed().eval(), torch.rand(1, 3, 12, 16)).layer == "conv"
