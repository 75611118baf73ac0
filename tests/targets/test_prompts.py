"""Prompts as targets: maps of an image-text model against hooks by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import attnviz
from attnviz import TextTarget
from attnviz.errors import ModelError, TargetError
from attnviz.models import zero_shot
from tests.support.image_text import clip_folder, clip_model, letters, siglip_model

pytest.importorskip("transformers")

PROMPTS = ["a boat", "water"]
CLOSE = {"atol": 1e-6, "rtol": 1e-5}  # eager attention takes its softmax in float32
LAYER = "vision_model.encoder.layers.2"


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="module")
def clip():
    return clip_model()


def targets():
    return [TextTarget(prompt, letters) for prompt in PROMPTS]


def explained(model, images, method, **options):
    """Maps (2 images, 2 prompts, h, w) from one forward pass."""
    maps = attnviz.explain(model, images, classes=targets(), method=method, **options)
    return maps.values.unflatten(0, (2, 2))


def by_hand(model, images):
    """The model's own logits, with what is inside its last block and each layer's tokens."""
    seen, handles = {}, []
    attention = f"{LAYER}.self_attn"
    for name in (f"{LAYER}.layer_norm1", *(f"{attention}.{p}_proj" for p in "qkv")):
        part = model.get_submodule(name)
        handles.append(
            part.register_forward_hook(lambda m, a, o, name=name: seen.update({name: o}))
        )
    out = model.get_submodule(f"{attention}.out_proj")
    handles.append(out.register_forward_pre_hook(lambda m, a: seen.update(o=a[0])))
    output = model(pixel_values=images, input_ids=letters(PROMPTS), output_hidden_states=True)
    for handle in handles:
        handle.remove()
    return output, seen


def test_gradcam_by_hooks(clip, images):
    output, seen = by_hand(clip, images)
    tokens = seen[f"{LAYER}.layer_norm1"]
    for k in range(2):
        score = output.logits_per_image[:, k].sum()
        (gradient,) = torch.autograd.grad(score, tokens, retain_graph=True)
        weights = gradient[:, 1:].mean(1, keepdim=True)
        map_ = (weights * tokens[:, 1:]).sum(-1).relu().unflatten(1, (4, 4))
        found = explained(clip, images, "gradcam")
        torch.testing.assert_close(found[:, k], map_.detach(), atol=1e-10, rtol=1e-8)
        assert map_.max() > 1e-4
    maps = attnviz.explain(clip, images, classes=targets())
    assert maps.layer == f"{LAYER}.layer_norm1"  # behind it no patch is read
    assert maps.label == ("a boat", "water") * 2
    torch.testing.assert_close(maps.logits[::2], output.logits_per_image.detach())
    torch.testing.assert_close(
        maps.probability.view(2, 2), output.logits_per_image.softmax(1).detach(),
        check_dtype=False,
    )  # fmt: skip


def test_grad_eclip_by_hooks(clip, images):
    output, seen = by_hand(clip, images)
    q, k, v = (seen[f"{LAYER}.self_attn.{p}_proj"] for p in "qkv")
    near = torch.cosine_similarity(q[:, :1], k[:, 1:], dim=-1)
    for column in range(2):
        score = output.logits_per_image[:, column].sum()
        (gradient,) = torch.autograd.grad(score, seen["o"], retain_graph=True)
        map_ = ((gradient[:, :1] * v[:, 1:]).sum(-1) * near).relu().unflatten(1, (4, 4))
        found = explained(clip, images, "grad_eclip", rescale=False)
        torch.testing.assert_close(found[:, column], map_.detach(), atol=1e-10, rtol=1e-8)
        assert map_.max() > 1e-4


def test_generic_relevance_and_legrad_by_the_eager_models_weights(clip, images):
    written = clip_model(implementation="eager")
    output = written(
        pixel_values=images, input_ids=letters(PROMPTS), output_attentions=True,
        output_hidden_states=True,
    )  # fmt: skip
    attentions = output.vision_model_output.attentions
    relevance, legrad = explained(clip, images, "generic_relevance"), explained(
        clip, images, "legrad"
    )  # fmt: skip
    with torch.no_grad():
        text = written.get_text_features(input_ids=letters(PROMPTS)).pooler_output
    text = text / text.norm(dim=-1, keepdim=True)
    for column in range(2):
        gradients = torch.autograd.grad(
            output.logits_per_image[:, column].sum(), attentions, retain_graph=True
        )
        total = torch.eye(17).double()
        for weights, gradient in zip(attentions, gradients, strict=True):
            total = total + (weights * gradient).clamp(min=0).mean(1) @ total
        wanted = total[:, 0, 1:].unflatten(1, (4, 4))
        torch.testing.assert_close(relevance[:, column], wanted.detach(), **CLOSE)
        total = 0
        hidden = output.vision_model_output.hidden_states[1:]
        for weights, tokens in zip(attentions, hidden, strict=True):
            pooled = written.vision_model.post_layernorm(tokens.mean(1))
            pooled = written.visual_projection(pooled)
            pooled = pooled / pooled.norm(dim=-1, keepdim=True)
            score = (pooled @ text[column]) * written.logit_scale.exp()
            (gradient,) = torch.autograd.grad(score.sum(), weights, retain_graph=True)
            total = total + gradient.clamp(min=0).mean((1, 2)) / len(hidden)
        wanted = total[:, 1:].unflatten(1, (4, 4))
        torch.testing.assert_close(legrad[:, column], wanted, **CLOSE)


def test_siglip_has_a_sigmoid_for_each_prompt(images):
    model = siglip_model()
    logits = model(pixel_values=images, input_ids=letters(PROMPTS)).logits_per_image.detach()
    both = attnviz.explain(model, images, classes=targets())
    torch.testing.assert_close(both.score.view(2, 2), logits)
    torch.testing.assert_close(both.probability.view(2, 2), logits.sigmoid(), check_dtype=False)
    one = attnviz.explain(model, images, target=TextTarget("water", letters))
    torch.testing.assert_close(one.score, logits[:, 1])
    torch.testing.assert_close(one.probability, logits[:, 1].sigmoid(), check_dtype=False)
    assert one.label == ("water",) * 2
    torch.testing.assert_close(one.values, both.values[1::2])
    for method in ("legrad", "generic_relevance"):
        assert explained(model, images, method).flatten(2).std(-1).min() > 0
    with pytest.raises(attnviz.errors.MethodError, match="use legrad"):
        explained(model, images, "grad_eclip")


def test_one_prompt_is_a_logit_without_a_probability(clip, images):
    one = attnviz.explain(clip, images, target=TextTarget("water", letters))
    both = attnviz.explain(clip, images, classes=targets())
    torch.testing.assert_close(one.score, both.score[1::2])
    torch.testing.assert_close(one.values, both.values[1::2])
    assert one.probability is None
    each = attnviz.explain(clip, images, target=targets())  # one prompt for each image
    torch.testing.assert_close(each.score, both.score.view(2, 2).diagonal())


def test_texts_run_once_and_the_model_is_left_as_it_was(images):
    model = clip_model().train()
    calls = []
    handle = model.text_model.register_forward_hook(lambda *_: calls.append(1))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    maps = attnviz.explain(model, images.repeat(2, 1, 1, 1), classes=targets(), batch_size=1)
    handle.remove()
    assert len(calls) == 1
    assert len(maps) == 8
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_classifier_of_prompts_is_a_model_like_others(clip, images):
    model = zero_shot(clip, PROMPTS, tokenizer=letters)
    assert model.labels == ("a boat", "water")
    wanted = clip(pixel_values=images, input_ids=letters(PROMPTS)).logits_per_image
    torch.testing.assert_close(model.module(images), wanted)
    maps = attnviz.explain(model, images, target="contrast:water,a boat")
    torch.testing.assert_close(maps.score, (wanted[:, 1] - wanted[:, 0]).detach())
    again = attnviz.explain(model, images, target="text:water")
    torch.testing.assert_close(again.score, wanted[:, 1].detach())
    with pytest.raises(TargetError, match="is no class of the model"):
        attnviz.explain(model, images, target="text:a car")


def test_what_is_wrong_is_said(clip, images):
    with pytest.raises(ModelError, match="tokenizer of CLIPModel is not known"):
        attnviz.explain(clip, images, target="text:a boat")
    with pytest.raises(TargetError, match="by themselves, and 'boat' is of another kind"):
        attnviz.explain(clip, images, classes=[TextTarget("a boat", letters), "boat"])
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ModelError, match="Sequential embeds no texts"):
        attnviz.explain(plain, images, target="text:a boat")
    with pytest.raises(TargetError, match="a prompt is a text"):
        TextTarget(" ")


def test_a_saved_clip_on_the_command_line(tmp_path, capsys):
    from attnviz.cli import main

    folder = clip_folder(tmp_path / "clip")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sea.png")
    loaded = attnviz.load(f"hf:{folder}")
    options = [str(tmp_path / "sea.png"), "--model", f"hf:{folder}", "--json", "--out",
               str(tmp_path / "out"), "--device", "cpu"]  # fmt: skip
    code = main(["explain", *options, "--target", "text:a boat", "--target", "text:water"])
    rows = json.loads(capsys.readouterr().out)["results"]
    assert code == 0
    assert [row["target"]["label"] for row in rows] == PROMPTS
    inputs = loaded.preprocess(pixels)[0][None]
    tokens = loaded.tokenizer(PROMPTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = loaded.module(pixel_values=inputs, **tokens).logits_per_image[0]
    assert [row["target"]["score"] for row in rows] == pytest.approx(logits.tolist(), rel=1e-4)
    best = int(logits.argmax())
    assert rows[0]["predicted"]["label"] == PROMPTS[best]
    assert rows[0]["predicted"]["probability"] == pytest.approx(float(logits.softmax(0)[best]))
    in_python = attnviz.explain(f"hf:{folder}", pixels, target="text:water")
    assert float(in_python.score) == pytest.approx(rows[1]["target"]["score"], rel=1e-5)
    processor = pytest.importorskip("transformers").CLIPProcessor.from_pretrained(folder)
    given = attnviz.explain(loaded.module, pixels, target=TextTarget("water", processor))
    torch.testing.assert_close(given.values, in_python.values)
    assert main(["explain", *options[:-2], "--force"]) == 1
    assert "say which text" in capsys.readouterr().err
    # what needs no prompt looks at the image half
    page = tmp_path / "page.html"
    photo = str(tmp_path / "sea.png")
    attend = ["attend", photo, "--model", f"hf:{folder}", "--html", str(page), "--stats", "json"]
    assert main(attend) == 0
    assert len(json.loads(capsys.readouterr().out.partition("\n")[2])["heads"]) == 3 * 2
    assert main(["layers", "tiny-clip"]) == 0
    assert "visual.blocks.2.norm1" in capsys.readouterr().out


def test_open_clip(images):
    open_clip = pytest.importorskip("open_clip")
    small = {"embed_dim": 16, "text_cfg": {"context_length": 16, "vocab_size": 16, "width": 16,
                                           "heads": 2, "layers": 1}}  # fmt: skip
    seen = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
    for kind in (open_clip.CLIP, open_clip.CustomTextCLIP):
        torch.manual_seed(0)
        model = kind(**small, vision_cfg=seen).eval().double()
        found, texts, scale = model(images, letters(PROMPTS))
        block = model.visual.transformer.resblocks[1]
        tokens = []
        handle = block.ln_1.register_forward_hook(lambda m, a, o, kept=tokens: kept.append(o))
        score = (model.encode_image(images, normalize=True) @ texts[0] * scale).sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(score, tokens[0])
        map_ = (gradient[:, 1:].mean(1, keepdim=True) * tokens[0][:, 1:]).sum(-1).relu()
        maps = attnviz.explain(model, images, classes=targets())
        torch.testing.assert_close(maps.score.view(2, 2), (scale * found @ texts.T).detach())
        torch.testing.assert_close(
            maps.values[::2], map_.unflatten(1, (4, 4)).detach(), atol=1e-10, rtol=1e-8
        )
        assert explained(model, images, "legrad").amax((2, 3)).min() > 0
