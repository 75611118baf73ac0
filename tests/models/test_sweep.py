"""Many more families at full size: a default that is alive, its layout confirmed by a corner."""

from __future__ import annotations

import warnings

import pytest
import torch

import attnviz
from attnviz.errors import LayerNotFound
from attnviz.models import default_layer, infer_layout
from attnviz.models.choosing import choose
from attnviz.models.families import static_layer
from attnviz.models.probing import probe
from attnviz.targets import logits_of

from .model_zoo import corner_cell, wake

pytestmark = pytest.mark.slow

#: timm name -> input size, and the default layer where its source code makes one the right one
TIMM = {
    "seresnet18": (64, "layer4"),
    "legacy_seresnet18": (64, "layer4"),
    "res2net50_26w_4s": (64, "layer4"),
    "resnet26t": (64, "layer4"),
    "nf_resnet26": (64, "final_act"),
    "tresnet_m": (64, "body"),
    "regnetz_005": (64, "final_conv"),
    "tf_efficientnetv2_b0": (64, "bn2"),
    "mobilenetv4_conv_small_035": (64, "blocks"),
    "hardcorenas_a": (64, "blocks"),
    "ghostnet_050": (64, "blocks"),
    "rexnet_100": (64, "features"),
    "convnextv2_atto": (64, "stages"),
    "inception_next_tiny": (64, "stages"),
    "mobileone_s0": (64, "stages"),
    "repvit_m0_9": (64, "stages"),
    "starnet_s1": (64, "norm"),
    "cspresnet50": (64, "stages"),
    "darknet53": (64, "stages"),
    "vovnet39a": (64, "stages"),
    "hgnet_tiny": (64, "stages"),
    "hrnet_w18_small": (64, "final_layer"),
    "dla34": (64, "level5"),
    "dpn48b": (64, "features"),
    "xception41": (64, "blocks"),
    "inception_v3": (107, "Mixed_7c"),
    "inception_v4": (107, "features"),
    "inception_resnet_v2": (107, "conv2d_7b"),
    "vgg11": (64, "features.19"),
    "convmixer_768_32": (64, "blocks"),
    "edgenext_xx_small": (64, "stages"),
    "rdnet_tiny": (64, "dense_stages"),
    "mambaout_femto": (64, "stages"),
    "caformer_s18": (64, "stages"),
    "fastvit_t8": (256, "final_conv"),
    "mobilevit_xxs": (256, "final_conv"),
    "mobilevitv2_050": (256, "stages"),
    "maxvit_rmlp_pico_rw_256": (256, "norm"),
    "coatnet_0_rw_224": (224, "norm"),
    "focalnet_tiny_srf": (224, "norm"),
    "gcvit_xxtiny": (224, "stages"),
    "davit_tiny": (224, "stages"),
    "nest_tiny": (224, "norm"),
    "nextvit_small": (224, "norm"),
    "sequencer2d_s": (224, "norm"),
    "swiftformer_xs": (224, "norm"),
    "tiny_vit_5m_224": (224, "stages"),
    "visformer_tiny": (224, "norm"),
    "swin_tiny_patch4_window7_224": (224, "norm"),
    "swinv2_tiny_window8_256": (256, "norm"),
    "swinv2_cr_tiny_ns_224": (224, "stages"),
    "hiera_tiny_224": (224, "blocks.11"),
    "mvitv2_tiny": (224, "norm"),
    "twins_svt_small": (224, "norm"),
    "pit_ti_224": (224, "transformers.2.blocks.3.norm1"),
    "pit_ti_distilled_224": (224, "transformers.2.blocks.3.norm1"),
    "convit_tiny": (224, "blocks.11.norm1"),
    "deit3_small_patch16_224": (224, "blocks.11.norm1"),
    "vit_tiny_r_s16_p8_224": (224, "blocks.11.norm1"),
    "vit_srelpos_small_patch16_224": (224, "norm"),
    "xcit_nano_12_p16_224": (224, "blocks.11"),
    "tnt_s_patch16_224": (224, "blocks.11.norm_out"),
    "resmlp_12_224": (224, "norm"),
    "gmlp_ti16_224": (224, "norm"),
    "volo_d1_224": (224, "network.4"),
    "crossvit_tiny_240": (240, None),
    "coat_tiny": (224, None),
    "efficientformer_l1": (224, None),
    "efficientvit_b0": (64, None),
    "shvit_s1": (224, None),
    "samvit_base_patch16_224": (224, "neck"),
    "naflexvit_base_patch16_gap": (384, None),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    import timm

    size, expected = TIMM[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = wake(timm.create_model(name)).eval()
    image = torch.randn(1, 3, size, size)
    layer = default_layer(model, image)
    if expected is not None:
        assert layer == expected
    with attnviz.capture(model, layer) as cap:
        logits = logits_of(model(image))
        activation = cap.activations[layer]
        gradient = cap.gradients(logits[:, 0].sum())[layer]
    module = model.get_submodule(layer)
    layout = infer_layout(model, module, activation, (size, size), batch=1)
    spatial = layout.to_spatial(gradient)
    assert spatial.shape[2] * spatial.shape[3] > 1
    assert spatial.isfinite().all()
    assert spatial.ne(0).any(), "zero by construction"


#: their last stage mixes all positions at random weights: a changed corner changes all alike
MIXED = ("tiny_vit_5m_224", "visformer_tiny")


@pytest.mark.parametrize(
    "name", [n for n, (size, _) in TIMM.items() if size == 224 and n not in MIXED]
)
def test_the_corner_of_the_default_layer(name: str) -> None:
    """In a network of random weights the residual path keeps a change near its place."""
    import timm

    model = timm.create_model(name).eval()
    layer = default_layer(model)
    module = model.get_submodule(layer)
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        image = torch.randn(1, 3, 224, 224, generator=generator)
        other = image.clone()
        rows, columns = (slice(0, 32) if c == 0 else slice(192, 224) for c in corner)
        other[:, :, rows, columns] = -other[:, :, rows, columns]
        maps = []
        for x in (image, other):
            with attnviz.capture(model, layer) as cap:
                model(x)
                maps.append(cap.activations[layer])
        layout = infer_layout(model, module, maps[0], (224, 224), batch=1)
        change = (layout.to_spatial(maps[1]) - layout.to_spatial(maps[0])).abs().sum(1)[0]
        row, column = divmod(int(change.argmax()), change.shape[1])
        cell = corner_cell(corner, tuple(change.shape))
        reach = max(1, change.shape[0] // 3)
        hits += abs(row - cell[0]) <= reach and abs(column - cell[1]) <= reach
    assert hits == 4


def test_a_network_without_a_default_says_so() -> None:
    """Perceiver-like: queries of unknown order are no picture, even if 16 of them make 4 x 4."""
    from torch import nn

    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_size = 8
            self.queries = nn.Parameter(torch.randn(1, 16, 32))
            self.embed = nn.Conv2d(3, 32, 8, 8)
            self.read = nn.MultiheadAttention(32, 2, batch_first=True)
            self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32)) for _ in range(6)])
            self.head = nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            patches = self.embed(x).flatten(2).transpose(1, 2)
            read, _ = self.read(self.queries.expand(len(x), -1, -1), patches, patches)
            return self.head(self.blocks(read).mean(1))

    model = Queries().eval()
    assert static_layer(model) is None
    assert choose(probe(model, torch.randn(1, 3, 64, 64))) is None
    with pytest.raises(LayerNotFound, match="pass layer="):
        default_layer(model, torch.randn(1, 3, 64, 64))
