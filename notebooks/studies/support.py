"""The state of support as a table: what was checked on which architecture, what is refused and why.

    python notebooks/studies/support.py [--out .github/docs/support.md] [--only NAME ...]

Each architecture is built small, with random weights and no file fetched. Checked are: that a
default layer is found; that Grad-CAM there equals a computation by hand with a hook and autograd
(largest difference over the map's largest value, below 1e-4); that rollout and LeGrad run, or why
they are refused. For dense networks (masks, boxes) a function of the output is explained instead
of a class, and the maps of two disjoint halves of the output must differ.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import attnviz
from attnviz.errors import AttentionUnavailable, AttnvizError
from attnviz.writing import write_file

_TIMM = """
resnet10t resnetv2_18 seresnet18 res2net50_14w_8s densenet121 regnety_002 repvgg_a0 vgg11 dla34
hrnet_w18_small cspresnet50 darknet53 efficientnet_b0 tf_efficientnet_lite0 mobilenetv3_small_050
mobilenetv4_conv_small ghostnet_050 tinynet_e mixnet_s mnasnet_small inception_v3 inception_v4
xception41 convnext_atto convnextv2_atto poolformer_s12 caformer_s18 fasternet_t0 starnet_s1
inception_next_atto repvit_m0_9 mobileone_s0 hgnetv2_b0 vovnet39a nfnet_f0 edgenext_xx_small
efficientformer_l1 efficientvit_b0 efficientvit_m0 mobilevit_xxs mobilevitv2_050 coatnet_nano_rw_224
maxvit_rmlp_pico_rw_256 botnet26t_256 halonet26t lambda_resnet26t
vit_tiny_patch16_224 vit_base_patch16_siglip_224 deit_tiny_distilled_patch16_224
vit_small_patch14_reg4_dinov2 eva02_tiny_patch14_224 beit_base_patch16_224 cait_xxs24_224
xcit_nano_12_p16_224 mixer_s32_224 gmlp_s16_224 resmlp_12_224 convit_tiny tnt_s_patch16_224
volo_d1_224 crossvit_tiny_240 coat_tiny coat_lite_tiny pit_ti_224 levit_128s visformer_tiny
pvt_v2_b0 twins_pcpvt_small swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
swinv2_cr_tiny_224 mvitv2_tiny hiera_tiny_224 focalnet_tiny_srf nextvit_small davit_tiny
gcvit_xxtiny fastvit_t8 tiny_vit_5m_224 shvit_s1 mambaout_femto
"""
_TORCHVISION = """
resnet18 densenet121 mobilenet_v2 mobilenet_v3_small efficientnet_b0 convnext_tiny regnet_y_400mf
shufflenet_v2_x0_5 squeezenet1_1 mnasnet0_5 googlenet inception_v3 alexnet vgg11 vit_b_16 swin_t
swin_v2_t maxvit_t
"""
_DENSE = """
fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large
"""
_NONE = "no attention"
#: transformers that can be built with fewer blocks, for time
_SHALLOW = ("vit_", "deit", "eva02_", "beit", "cait_", "convit_")


@dataclass(frozen=True)
class Row:
    """What was found out about one architecture."""

    name: str
    layer: str = ""
    gradcam: str = ""
    rollout: str = ""
    legrad: str = ""

    def line(self) -> str:
        """Return a row of the table."""
        cells = (f"`{self.name}`", self.layer and f"`{self.layer}`", self.gradcam, self.rollout)
        return "| " + " | ".join([*(c.replace("|", "/") for c in cells), self.legrad]) + " |"


def _timm(name: str) -> tuple[nn.Module, Tensor]:
    import timm

    options = {"depth": 2} if name.startswith(_SHALLOW) else {}
    try:
        model = timm.create_model(name, pretrained=False, num_classes=10, **options)
    except TypeError:  # of a hybrid, whose builder states the depth itself
        model = timm.create_model(name, pretrained=False, num_classes=10)
    return model, _picture(model, model.pretrained_cfg["input_size"][-1])


def _torchvision(name: str) -> tuple[nn.Module, Tensor]:
    from torchvision import models

    options: dict[str, Any] = {"num_classes": 10}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if name in _DENSE.split():
        options["weights_backbone"] = None
    model = models.get_model(name, weights=None, **options)
    return model, _picture(model, 224)


def _picture(model: nn.Module, size: int) -> Tensor:
    """Return a picture of 96 pixels, or of the model's own size where it takes no other.

    Windows of attention are padded at other sizes, so models with attention get their own.
    """
    small = torch.rand(1, 3, 96, 96)
    if any("att" in type(part).__name__.lower() for part in model.modules()):
        return torch.rand(1, 3, size, size)
    try:
        with torch.no_grad():
            model.eval()(small)
    except Exception:  # each library refuses another size in its own way
        return torch.rand(1, 3, size, size)
    return small


def _transformers(name: str) -> tuple[nn.Module, Tensor]:
    import transformers

    vit = {
        "image_size": 64, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 10,
    }  # fmt: skip
    stages = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_labels": 10}
    swin = {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
            "window_size": 4, "num_labels": 10}  # fmt: skip
    options = {
        "ViT": vit, "DeiT": vit, "Beit": vit, "Dinov2": vit, "Swin": swin, "Swinv2": swin,
        "ConvNext": stages, "ConvNextV2": stages, "ResNet": {**stages, "embedding_size": 8},
        "Hiera": {"embed_dim": 16, "image_size": [64, 64], "depths": [1] * 4,
                  "num_heads": [1, 2, 2, 4], "num_labels": 10},
        "Segformer": {"hidden_sizes": [8, 16, 20, 32], "depths": [1] * 4,
                      "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16,
                      "num_labels": 10},
    }[name]  # fmt: skip
    head = "SemanticSegmentation" if name == "Segformer" else "ImageClassification"
    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}For{head}")(config), torch.rand(1, 3, 64, 64)


SOURCES: dict[str, tuple[Callable[[str], tuple[nn.Module, Tensor]], str]] = {
    "timm": (_timm, _TIMM),
    "torchvision": (_torchvision, _TORCHVISION + _DENSE),
    "transformers": (
        _transformers,
        "ViT DeiT Beit Dinov2 Swin Swinv2 ConvNext ConvNextV2 ResNet Hiera Segformer",
    ),
}


def rows(only: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """Yield the source and the row of every architecture."""
    for source, (build, names) in SOURCES.items():
        for name in names.split():
            if not only or name in only:
                yield source, row(name, build)


def row(name: str, build: Callable[[str], tuple[nn.Module, Tensor]]) -> Row:
    """Return what works on one architecture."""
    torch.manual_seed(0)
    try:
        model, x = build(name)
    except Exception as error:  # an architecture that this release of its library has not
        return Row(name, gradcam=f"not built here: {_short(error)}")
    model.eval()
    with torch.no_grad():  # heads and scales of zero would hide what is behind them
        for weight in model.parameters():
            if not weight.any() and weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)
    with torch.no_grad():
        output = model(x)
    dense = _scores(output, 1)[0].ndim > 2
    try:
        maps = explained(model, x, "gradcam", dense)
    except AttnvizError as error:
        return Row(name, gradcam=f"refused: {_short(error)}")
    off = float((maps.values - by_hand(model, x, maps, dense)).abs().max())
    size = float(maps.values.abs().max())
    close = size > 0 and off < 1e-4 * size
    same = f"equal ({off / size:.0e})" if close else f"differs: {off:.2g} of {size:.2g}"
    rollout = _tried(model, x, "rollout", dense)
    legrad = _tried(model, x, "legrad", dense) if rollout != _NONE else _NONE
    return Row(name, maps.layer, same, rollout, legrad)


def explained(model: nn.Module, x: Tensor, method: str, dense: bool, **options: Any) -> Any:
    """Return a map of class 1, or of the upper half of a dense output."""
    if method == "gradcam":
        options["signed"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target: Any = (lambda output: _scores(output, 1)[1]) if dense else 1
        return attnviz.explain(model, x, method=method, target=target, **options)


def by_hand(model: nn.Module, x: Tensor, maps: Any, dense: bool) -> Tensor:
    """Return Grad-CAM (B, h, w) from a hook, autograd and nothing else."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        first = output
        while not isinstance(first, Tensor):
            first = next(iter(first.values() if isinstance(first, dict) else first))
        seen.append(first.clone() if first is output else first)
        # what follows may change its input in place
        return seen[-1].clone() if first is output else None

    handle = model.get_submodule(maps.layer).register_forward_hook(keep)
    try:
        score = _scores(model(x.clone().requires_grad_()), 1)[1]
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), seen[-1])
    activation = seen[-1]
    h, w = maps.values.shape[1:]
    if activation.ndim == 3:
        extra = activation.shape[1] - h * w  # the patches are last, but for tokens behind them
        first = int(maps.meta["layout"].split(":")[1].split()[0]) if extra else 0
        activation, gradient = (t[:, first : first + h * w] for t in (activation, gradient))
        activation, gradient = (t.unflatten(1, (h, w)) for t in (activation, gradient))
    elif activation.shape[2:] == (h, w):
        activation, gradient = (t.permute(0, 2, 3, 1) for t in (activation, gradient))
    weights = gradient.mean((1, 2), keepdim=True)
    return (weights * activation).sum(-1).detach()


def _scores(output: Any, index: int) -> tuple[Tensor, Tensor]:
    """Return the logits, and one class's score of them."""
    if isinstance(output, dict):
        output = output.get("out", output.get("logits"))
    logits = getattr(output, "logits", output)
    if logits.ndim > 2:
        return logits, logits[:, index, : logits.shape[2] // 2].flatten(1).mean(1)
    return logits, logits[:, index]


def _tried(model: nn.Module, x: Tensor, method: str, dense: bool) -> str:
    try:
        explained(model, x, method, dense)
    except AttentionUnavailable as error:
        none = "no attention was read from", "no attention among the patches"
        return _NONE if str(error).startswith(none) else _short(error)
    except AttnvizError as error:
        return _short(error)
    except Exception as error:  # to be mended: every refusal is to say what is missing
        return f"FAULT {type(error).__name__}: {_short(error)}"
    return "yes"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    for end in (". ", "; "):
        text = text.partition(end)[0]
    return text[:160]


def table(found: list[tuple[str, Row]]) -> str:
    """Return the page."""
    checked = [r for _, r in found if r.gradcam.startswith("equal")]
    lines = [
        "# State of support",
        "",
        f"Of {len(found)} architectures Grad-CAM at the default layer equals a computation by hand "
        f"(a hook and autograd) on {len(checked)}; the number is the largest difference over the "
        "map's largest value. Rollout and LeGrad need softmax attention among patches of one "
        "grid; where they are refused the reason stands there. All weights are random and small.",
        "",
        "Made by `python notebooks/studies/support.py`.",
    ]
    return "\n".join(lines + parts(found, "default layer", "Grad-CAM", "rollout", "LeGrad")) + "\n"


def parts(found: Sequence[tuple[str, Any]], *columns: str) -> list[str]:
    """Return a heading and a table for each source of the rows."""
    lines: list[str] = []
    for source in dict.fromkeys(source for source, _ in found):
        some = [row.line() for which, row in found if which == source]
        head = "| " + " | ".join(("architecture", *columns)) + " |"
        lines += ["", f"## {source}", "", head, "|" + " --- |" * (len(columns) + 1), *some]
    return lines


def make_page(
    page: str, doc: str, rows: Callable[[Sequence[str]], Iterator[tuple[str, Any]]],
    table: Callable[[list[tuple[str, Any]]], str],
) -> list[tuple[str, Any]]:  # fmt: skip
    """Write a page of the docs by what the command line says; returns its rows."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".github/docs") / page)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    found = []
    for source, one in rows(options.only):
        print(one.line(), flush=True)
        found.append((source, one))
    write_file(options.out, table(found), force=True)
    return found


if __name__ == "__main__":
    make_page("support.md", __doc__ or "", rows, table)
