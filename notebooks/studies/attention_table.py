"""What the tap reads, architecture by architecture, against the eager model's own weights.

    python notebooks/studies/attention_table.py [--out .github/docs/attention.md] [--only NAME ...]

Every architecture is built tiny, with random weights and no file fetched. Compared are:

- weights: each matrix that the eager model hands out (`output_attentions`; of timm, the output of
  the dropout behind its own softmax) with what the tap reads while the fused model runs: the
  largest difference, right below 1e-5;
- kind: what is handed out as cross-attention is "cross", all else "self" or "window";
- grid: the patches of the picture by the configuration's own sizes, and none for words;
- names: every matrix comes from a module of its own, in the order of the layers;
- rollout: over the sites read, with the product of the eager matrices in float64.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from support import make_page, parts
from torch import Tensor, nn

from attnviz import attention
from attnviz.attention import Site, Tap
from attnviz.methods.attention.steps import in_places

TRANSFORMERS = """
aimv2 aimv2_vision_model albert altclip apertus arcee bart beit bert bert-generation big_bird
bigbird_pegasus biogpt bitnet blenderbot blenderbot-small blip bloom camembert canine chinese_clip
clip clip_text_model clip_vision_model clipseg cohere cohere2 convbert ctrl data2vec-text
data2vec-vision deberta deberta-v2 deit detr diffllama dinov2 dinov2_with_registers dinov3_vit
distilbert doge dpr dpt electra ernie ernie4_5 eurobert exaone4 falcon flaubert gemma gemma2
gemma3_text git glm glm4 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese granite granitemoe
groupvit gte helium ibert idefics3_vision ijepa imagegpt internlm3 internvl_vision jetmoe layoutlm
led llama longformer longt5 lxmert m2m_100 marian mbart megatron-bert minimax mistral mixtral
mlcd_vision_model mobilebert modernbert modernbert-decoder moonshine mpnet mpt mt5 mvp nanochat
nomic_bert nystromformer olmo olmo2 olmo3 openai-gpt opt owlv2 owlvit pegasus pegasus_x persimmon
phi phi3 pixio pixtral plbart prophetnet qwen2 qwen3 rembert roberta roberta-prelayernorm
roformer seed_oss segformer siglip_vision_model smollm3 smolvlm_vision splinter squeezebert stablelm
starcoder2 swin swinv2 switch_transformers t5 tapas umt5 vilt visual_bert vit vit_mae vit_msn
vitdet whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet
"""
TIMM = """
vit_tiny_patch16_224 vit_small_patch14_reg4_dinov2 vit_base_patch16_siglip_224
deit_tiny_distilled_patch16_224 deit3_small_patch16_224 beit_base_patch16_224
eva02_tiny_patch14_224 vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224
vit_wee_patch16_reg1_gap_256 vit_small_patch16_rope_224 vit_pe_core_tiny_patch16_384
vit_base_patch16_clip_224 cait_xxs24_224 convit_tiny vit_little_patch16_reg1_gap_256
vit_mediumd_patch16_reg4_gap_256 vit_small_patch16_36x1_224 vit_small_patch16_18x2_224
swin_tiny_patch4_window7_224 levit_128s
"""

#: why the figure of an architecture can't be right or says something else
EXPLAINED = {
    "git": "patches and words stand in one sequence, which has no grid; the vision tower has",
    "groupvit": "hands out the softmax of its grouping; what weighs the patches is the choice of "
    "one group each, and that is read",
    "led": "local attention in overlapping chunks, handed out as a band of keys round each query",
    "longformer": "local attention in overlapping chunks, handed out as a band of keys round each "
    "query",
    "minimax": "every other layer is linear attention: its matrix is a state of keys and values",
    "pixtral": "photos of any size in one sequence; where one ends stands in the mask alone",
    "prophetnet": "of its encoder and cross-attention hands out what goes into the softmax, whose "
    "softmax is what is read; of its decoder's self-attention the weights",
    "squeezebert": "hands out what goes into the softmax, whose softmax is what is read",
}
RIGHT = 1e-5


@dataclass(frozen=True)
class Row:
    """What was found out about one architecture."""

    name: str
    source: str
    weights: str = ""
    kinds: str = ""
    grid: str = ""
    names: str = ""
    rollout: str = ""
    wrong: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether everything that could be compared was right."""
        return not self.wrong

    def line(self) -> str:
        """Return a row of the table."""
        said = "right" if self.right else EXPLAINED.get(self.name, "; ".join(self.wrong))
        cells = (f"`{self.name}`", self.weights, self.kinds, self.grid, self.names, self.rollout)
        cells = (*cells, said)
        return "| " + " | ".join(c.replace("|", "/") for c in cells) + " |"


# -- tiny models ---------------------------------------------------------------------------------

_SIZES = {
    32: "hidden_size d_model n_embd dim embed_dim emb_dim d_embed embedding_size "
        "encoder_hidden_size decoder_hidden_size hidden_dim projection_dim decoder_dim",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
       "num_decoder_layers num_key_value_heads l_layers x_layers r_layers",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
       "decoder_attention_heads",
    64: "intermediate_size ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim n_inner d_inner "
        "ffn_hidden_size moe_intermediate_size max_position_embeddings",
    8: "head_dim d_kv d_head kv_channels patch_size",
    100: "vocab_size",
}  # fmt: skip
_SMALL = {name: size for size, names in _SIZES.items() for name in names.split()}
_IDS = {"bos": 1, "eos": 2, "pad": 0, "decoder_start": 1, "sep": 2, "cls": 3, "mask": 4}
_STAGES = {"depths": [1, 1], "hidden_sizes": [16, 32], "num_attention_heads": [2, 4],
           "num_encoder_blocks": 2, "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2],
           "mlp_ratios": [2, 2]}  # fmt: skip
_WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2],
            "num_heads": [2, 4], "window_size": 4}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "internvl_vision": {"image_size": (32, 32)},
    "led": {"attention_window": 4},
    "longformer": {"attention_window": 4},
    "lxmert": {"visual_feat_dim": 16},
    "nystromformer": {"num_landmarks": 3, "segment_means_seq_len": 9, "conv_kernel_size": 3},
    "openai-gpt": {"n_positions": 64},
    "prophetnet": {"num_encoder_layers": 2, "num_encoder_attention_heads": 4,
                   "num_decoder_attention_heads": 4},
    "segformer": _STAGES,
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "whisper": {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 16},
}  # fmt: skip
#: configurations whose picture is square
_SQUARE = ("swin", "swinv2", "aimv2", "altclip", "blip", "chinese_clip", "clip", "git", "mlcd",
           "owl", "siglip", "idefics3", "smolvlm", "pixtral", "vitdet", "groupvit", "dinov2", "dpt",
           "pixio", "vilt", "vit_mae")  # fmt: skip
#: of these, which take a picture that is no square all the same
_ANY_SIZE = ("dinov2", "pixio")


def shrink(config: Any, name: str) -> Any:
    """Return a configuration with two layers of 32 channels and 4 heads, parts included."""
    from transformers import PreTrainedConfig

    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            shrink(value, name)
        elif key in _SMALL and isinstance(value, int) and not isinstance(value, bool):
            setattr(config, key, _SMALL[key])
        elif key == "image_size" and value is not None:
            config.image_size = 32 if name.startswith(_SQUARE) else (32, 48)
        elif key.endswith("_token_id") and isinstance(value, int) and value >= 100:
            setattr(config, key, _IDS.get(key.removesuffix("_token_id"), 5))
    for key, value in _OWN.get(name, {}).items():
        setattr(config, key, value)
    return config


def _detr() -> Any:
    import transformers

    return transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1] * 4, layer_type="basic",
            out_features=["stage4"],
        ),
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_queries=6,
    )  # fmt: skip


def tiny(name: str, implementation: str) -> tuple[nn.Module, Any]:
    """Return a model of `transformers` with random weights, far from even attention."""
    import transformers

    base = _detr() if name == "detr" else transformers.AutoConfig.for_model(name)
    config = shrink(base, name)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(
        copy.deepcopy(config), attn_implementation=implementation
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(2.0)
    return model.eval(), config


def inputs_of(model: nn.Module, config: Any) -> dict[str, Any]:
    """Return two texts, the second padded, two photos, or both."""
    taken = inspect.signature(model.forward).parameters
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 90, (2, 9), generator=draw)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    found: dict[str, Any] = {}
    if "input_ids" in taken:
        found["input_ids"] = ids
        if "attention_mask" in taken and config.model_type != "nystromformer":  # it breaks there
            found["attention_mask"] = mask
    if "pixel_values" in taken and config.model_type != "layoutlm":
        size = _size(config) or (32, 32)
        found["pixel_values"] = torch.randn(2, 3, *size, generator=draw)
    if "decoder_input_ids" in taken:
        found["decoder_input_ids"] = ids[:, :5]
    if "bbox" in taken:
        found["bbox"] = torch.tensor([5, 6, 20, 30]).expand(2, 9, 4)
    if "visual_feats" in taken:
        found["visual_feats"] = torch.randn(2, 6, config.visual_feat_dim, generator=draw)
        found["visual_pos"] = torch.rand(2, 6, 4, generator=draw)
    if "input_features" in taken:
        found["input_features"] = torch.randn(2, config.num_mel_bins, 40, generator=draw)
        found.pop("attention_mask", None)
    if "input_values" in taken:
        found["input_values"] = torch.randn(2, 4000, generator=draw)
        found.pop("attention_mask", None)
    return found


def _size(config: Any) -> tuple[int, int] | None:
    if config.model_type.startswith(_ANY_SIZE):
        return 32, 48
    if config.model_type == "detr":
        return 128, 160
    if config.model_type == "segformer":
        return 64, 96
    for part in (config, getattr(config, "vision_config", None)):
        size = getattr(part, "image_size", None)
        if size is not None:
            return (size, size) if isinstance(size, int) else tuple(size)
    return None


# -- what is handed out --------------------------------------------------------------------------

_FIELDS = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions",
           "language_attentions", "vision_attentions", "cross_encoder_attentions")  # fmt: skip


def handed_out(output: Any) -> list[tuple[str, Tensor]]:
    """Return (field, matrix) of all that a Hugging Face output hands out."""
    found = []
    parts = [getattr(output, n, None) for n in ("vision_model_output", "text_model_output")]
    for part in (output, *parts):
        for name in _FIELDS:
            for matrix in getattr(part, name, None) or ():
                some = matrix if isinstance(matrix, (tuple, list)) else (matrix,)
                some = [m for m in some if isinstance(m, Tensor) and m.is_floating_point()]
                found += [(name, m) for m in some]
    return found


def of_transformers(name: str) -> Row:
    """Return the row of an architecture of `transformers`."""
    eager, config = tiny(name, "eager")
    try:
        fused, implementation = tiny(name, "sdpa")[0], "sdpa"
    except ValueError:  # transformers has no fused attention for it
        fused, implementation = tiny(name, "eager")[0], "eager"
    fused.load_state_dict(eager.state_dict())
    given = inputs_of(fused, config)
    with torch.no_grad():
        torch.manual_seed(3)
        wanted = handed_out(eager(**given, output_attentions=True))
        torch.manual_seed(3)
        plain = fused(**given)
        torch.manual_seed(3)
        with attention.tap(fused) as tap:
            tapped = fused(**given)
    wrong = [] if _same(plain, tapped) else ["the output changed"]
    wrong += [f"not read: {m}" for m in tap.missed]
    return compared(name, implementation, fused, tap, wanted, _size(config), wrong,
                    _patches(config))  # fmt: skip


def _patches(config: Any) -> tuple[int, int] | None:
    """Return rows and columns of patches by the configuration, None for stages and detectors."""
    if config.model_type in (*_STAGED, "detr", "vilt", "vit_mae", "groupvit"):
        return None
    sides = _size(config)
    for part in (config, getattr(config, "vision_config", None)):
        patch = getattr(part, "patch_size", None)
        if patch is not None and sides is not None:
            steps = (patch, patch) if isinstance(patch, int) else patch
            return sides[0] // steps[0], sides[1] // steps[1]
    return None


_STAGED = ("swin", "swinv2", "segformer")


def _same(first: Any, second: Any) -> bool:
    """Say whether two outputs are equal to the bit."""
    leaves = [torch.utils._pytree.tree_leaves(dict(o)) for o in (first, second)]
    pairs = [p for p in zip(*leaves, strict=True) if isinstance(p[0], Tensor)]
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def of_timm(name: str) -> Row:
    """Return the row of an architecture of timm."""
    import timm

    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": (96, 128)} if not name.startswith("levit") else {}
    if name.startswith("convit"):  # its positions are those of a square
        options["img_size"] = (96, 96)
    if name.startswith("swin"):
        options = {"img_size": (224, 224), "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 3)}
    elif "patch14" in name:
        options["img_size"] = (84, 112)
    if not name.startswith(("swin", "levit")):
        options |= {"depth": 2, "embed_dim": 48, "num_heads": 3}
    model = timm.create_model(name, pretrained=False, num_classes=5, **options).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.02)
    eager = copy.deepcopy(model)
    parts = [m for m in eager.modules() if hasattr(m, "fused_attn")]
    for part in parts:
        part.fused_attn = False
    seen: list[tuple[str, Tensor]] = []
    for _, module in eager.named_modules():
        if hasattr(module, "attn_drop") and isinstance(module.attn_drop, nn.Module):
            module.attn_drop.register_forward_hook(
                lambda _, __, output: seen.append(("attentions", output))
            )
    size = tuple(options.get("img_size", (224, 224)))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        eager(x)
        plain = model(x)
        with attention.tap(model) as tap:
            tapped = model(x)
    wrong = [] if torch.equal(plain, tapped) else ["the output changed"]
    wrong += [f"not read: {m}" for m in tap.missed]
    step = 14 if "patch14" in name else 16
    patches = None if name.startswith(("swin", "levit")) else (size[0] // step, size[1] // step)
    fused = any(getattr(m, "fused_attn", False) for m in model.modules())
    return compared(name, "sdpa" if fused else "eager", model, tap, seen, size, wrong, patches)


# -- comparing -----------------------------------------------------------------------------------


def compared(
    name: str, implementation: str, model: nn.Module, tap: Tap,
    wanted: Sequence[tuple[str, Tensor]], size: tuple[int, int] | None, wrong: list[str],
    patches: tuple[int, int] | None,
) -> Row:  # fmt: skip
    """Return the row of what was read and what was to be read."""
    sites = list(tap.attention)
    pairs, worst = [], 0.0
    for number, (field, matrix) in enumerate(wanted):
        gaps = [(_gap(site, matrix), site) for site in sites if site not in [s for _, s in pairs]]
        gap, site = min(gaps, key=lambda pair: pair[0], default=(float("inf"), None))
        if site is None or gap == float("inf"):
            wrong.append(f"{field} {number + 1} {tuple(matrix.shape)} is not among the sites")
            continue
        worst = max(worst, gap)
        pairs.append((field, site))
    if worst > RIGHT:
        wrong.append(f"a weight differs by {worst:.0e}")
    if not wanted:
        worst = max(site.error() for site in sites)
    kinds = [(field, site) for field, site in pairs
             if (site.kind == "cross") != field.startswith("cross")]  # fmt: skip
    wrong += [f"{site.name} is {site.kind}" for _, site in kinds[:1]]
    grid = _grid(sites, size, patches, wrong)
    read = [(site.name, site.call) for _, site in pairs]
    each = len(set(read)) == len(read) and all(not n or model.get_submodule(n) for n, _ in read)
    if not each:
        wrong.append("two matrices come from one module")
    count: dict[str, int] = {}
    for site in sites:
        count[site.kind] = count.get(site.kind, 0) + 1
    return Row(
        name, implementation,
        f"{worst:.0e}" + ("" if wanted else " (output)"),
        ", ".join(f"{n} {kind}" for kind, n in count.items()),
        grid,
        f"{len(set(read))} of {len(wanted)}" if wanted else "",
        _rollout(pairs, wanted, wrong),
        tuple(wrong),
    )  # fmt: skip


def _gap(site: Site, matrix: Tensor) -> float:
    """Return the largest difference, infinite where the sizes differ."""
    if site.batch * site.heads * site.queries * site.keys != matrix.numel():
        return float("inf")
    if site.keys != matrix.shape[-1]:
        return float("inf")
    return float((site.weights().reshape(matrix.shape) - matrix).abs().max())


def _grid(
    sites: Sequence[Site], size: tuple[int, int] | None, patches: tuple[int, int] | None,
    wrong: list[str],
) -> str:  # fmt: skip
    """Return the grids found, and note those that the sizes deny."""
    found = []
    for site in sites:
        grid = site.grid
        if grid is None and site.has_places and site.picture is not None:
            grid = site.places().grid
        if grid is not None and grid not in found:
            found.append(grid)
    if size is None:
        wrong += [f"a grid {grid} where there is no picture" for grid in found[:1]]
    elif patches is not None:
        whole = patches[0] * patches[1]
        seen = [s for s in sites if whole <= s.keys <= whole + 16]
        wrong += [f"{s.name}: grid {s.grid}, not {patches}" for s in seen
                  if s.grid != patches and not s.has_places][:1]  # fmt: skip
        wrong += [f"a grid {g}, not {patches}" for g in found if g != patches][:1]
    else:
        shape = size[0] / size[1]
        wrong += [f"a grid {g} of a picture {size}" for g in found
                  if abs(g[0] / g[1] / shape - 1) > 0.35][:1]  # fmt: skip
    return ", ".join(f"{rows} x {columns}" for rows, columns in found) or "none"


def _rollout(
    pairs: Sequence[tuple[str, Site]], wanted: Sequence[tuple[str, Tensor]], wrong: list[str]
) -> str:
    """Return the largest difference of the rollout over the sites from the product of matrices."""
    for field in ("attentions", "encoder_attentions", "language_attentions"):
        sites = [s for f, s in pairs if f == field and s.kind == "self" and s.queries == s.keys]
        matrices = [m for f, m in wanted if f == field and m.ndim == 4]
        if len(sites) < 2 or len(sites) != len(matrices) or in_places(sites[0]):
            continue
        sides = {s.keys for s in sites} | {m.shape[-1] for m in matrices}
        if len(sides) != 1:
            continue
        side = sites[0].keys
        row = torch.zeros(sites[0].batch, side)
        row[:, 0] = 1
        made = attention.rollout(sites, row)
        product = row[:, None].double()
        for matrix in reversed(matrices):
            product = product @ (matrix.double().mean(1) + torch.eye(side).double()) / 2
        gap = float((made - product[:, 0]).abs().max())
        if gap > RIGHT:
            wrong.append(f"rollout differs by {gap:.0e}")
        return f"{gap:.0e}"
    return ""


SOURCES = {"transformers": (of_transformers, TRANSFORMERS), "timm": (of_timm, TIMM)}


def rows(only: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """Yield the library and the row of every architecture."""
    for library, (look, names) in SOURCES.items():
        for name in names.split():
            if only and name not in only:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    yield library, look(name)
                except Exception as error:  # to be mended: nothing may break on a model
                    text = " ".join(str(error).split())[:120]
                    yield library, Row(name, "", wrong=(f"{type(error).__name__}: {text}",))


def table(found: Sequence[tuple[str, Row]]) -> str:
    """Return the page."""
    right = sum(row.right for _, row in found)
    lines = [
        "# Attention, architecture by architecture",
        "",
        f"Of {len(found)} architectures everything that could be compared was right on {right}; "
        "for the others the last column says why not. Weights and rollout are largest differences "
        "from the eager model's own matrices; names are how many of its matrices were found, each "
        "in a module of its own. All weights are random and small.",
        "",
        "Made by `python notebooks/studies/attention_table.py`.",
    ]
    lines += parts(found, "weights", "sites", "grid", "names", "rollout", "")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    made = make_page("attention.md", __doc__ or "", rows, table)
    print(f"{sum(row.right for _, row in made)} of {len(made)} right")
