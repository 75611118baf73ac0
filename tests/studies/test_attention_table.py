"""The table of attention: what was found wrong once, and that a wrong weight would be seen."""

import warnings

import attention_table
import pytest
import torch

from attnviz import attention

pytest.importorskip("transformers", minversion="5.0")


def read(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, config = attention_table.tiny(name, "eager")
        with torch.no_grad(), attention.tap(model) as tap:
            model(**attention_table.inputs_of(model, config))
    return model, tap


@pytest.mark.parametrize("name", ["bert", "t5", "vit", "lxmert"])
def test_a_row_that_is_right(name):
    row = attention_table.of_transformers(name)
    assert row.right, row.wrong
    assert row.grid == ("4 x 6" if name == "vit" else "none")
    assert row.line().endswith("| right |")


def test_a_wrong_weight_and_a_wrong_kind_would_be_seen():
    from dataclasses import replace

    model, tap = read("t5")
    wanted = [("encoder_attentions" if s.kind == "self" else "cross_attentions", s.weights())
              for s in tap.attention]  # fmt: skip

    class Other:
        attention = tap.attention

    def row(matrices):
        return attention_table.compared("t5", "eager", model, Other, matrices, None, [], None)

    assert row(wanted).right
    off = [(f, w + 2e-5) for f, w in wanted]
    assert any("a weight differs" in text for text in row(off).wrong)
    swapped = [("encoder_attentions", w) for _, w in wanted]
    assert any("is cross" in text for text in row(swapped).wrong)
    assert any("is not among" in t for t in row([*wanted, ("attentions", torch.ones(2, 2))]).wrong)
    Other.attention = [replace(s, name="same", call=0) for s in tap.attention]
    assert any("from one module" in text for text in row(wanted).wrong)


def test_a_product_of_attentions_is_no_attention():
    """Nystromformer: landmarks gather the tokens, the tokens read them by a product of three."""
    model, tap = read("nystromformer")
    sizes = [(s.queries, s.keys, s.mixed) for s in tap.attention]
    assert sizes == [(3, 9, False), (9, 3, True)] * 2  # eight sites a layer once
    with torch.no_grad():
        ids = attention_table.inputs_of(model, model.config)["input_ids"]
        wanted = model(input_ids=ids, output_attentions=True).attentions
    for site, matrix in zip(tap.attention[1::2], wanted, strict=True):
        assert torch.equal(site.weights(), matrix)  # though the output was written into


def test_the_end_of_an_attention_that_was_read_is_not_missed():
    assert read("lxmert")[1].missed == ()


def test_modules_that_a_model_puts_in_while_it_runs():
    tap = read("big_bird")[1]  # short texts make it exchange its attention
    assert tap.missed == ()
    assert [(s.kind, s.heads, s.keys) for s in tap.attention] == [("self", 4, 9)] * 2


@pytest.mark.parametrize(
    ("texts", "length", "heads", "window"),
    [(2, 12, 4, 4), (4, 8, 4, 4), (2, 8, 4, 4), (6, 12, 2, 4), (3, 12, 4, 6), (4, 16, 4, 8),
     (2, 12, 1, 4), (2, 8, 2, 4)],
)  # fmt: skip
def test_chunks_beside_heads_are_windows(texts, length, heads, window):
    """Longformer: as many texts as tokens overlap, and as many chunks as heads."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LongformerConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=heads, intermediate_size=64,
        vocab_size=100, attention_window=window, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LongformerModel(config).eval()
    ids = torch.randint(5, 90, (texts, length))
    with torch.no_grad(), attention.tap(model) as tap:
        model(input_ids=ids)
    (site,) = tap.attention
    step = window // 2
    chunks = length // step
    assert (site.kind, site.images, site.windows, site.heads) == ("window", texts, chunks, heads)
    with torch.no_grad():
        (band,) = model(input_ids=ids, output_attentions=True).attentions
    # the band of query i begins a step before it; its chunk begins a step before the chunk
    got = site.weights().unflatten(0, (texts, chunks))
    for query in range(length):
        chunk, row = divmod(query, step)
        mine = got[:, chunk, :, row, row : row + window + 1]
        torch.testing.assert_close(mine, band[:, :, query], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("heads", "window", "batch"), [(4, 4, 16), (2, 2, 4), (4, 2, 4)])
def test_windows_beside_as_many_images_are_windows(heads, window, batch):
    """Swin of Hugging Face: as many images as tokens in a window, as many windows as heads."""
    import transformers

    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, window_size=window, embed_dim=16, depths=[2],
        num_heads=[heads],
    )  # fmt: skip
    model = transformers.SwinModel(config).eval()
    pictures = torch.randn(batch, 3, 32, 32)
    count = (8 // window) ** 2
    with torch.no_grad(), attention.tap(model) as tap:
        model(pixel_values=pictures)
    with torch.no_grad(), attention.tap(model) as alone:
        model(pixel_values=pictures[:1])
    for site, first in zip(tap.attention, alone.attention, strict=True):
        assert (site.kind, site.images, site.windows) == ("window", batch, count)
        torch.testing.assert_close(site.weights()[:count], first.weights())
        assert first.kind == "window"


def test_a_hard_choice_is_read_as_it_weighs():
    """GroupViT: 0 or 1 forward, a softmax backward, divided by the size of the group."""
    tap = read("groupvit")[1]
    assert tap.missed == ()
    site = next(s for s in tap.attention if s.name.endswith("stages.0.downsample.assign"))
    weights = site.weights()
    assert ((weights > 1e-3).sum(2) == 1).all()  # every patch is of one group
    assert site.error() < 1e-6


@pytest.mark.slow
def test_the_table_is_right_or_explained():
    found = list(attention_table.rows())
    assert sum(library == "transformers" for library, _ in found) >= 100
    assert sum(library == "timm" for library, _ in found) >= 16
    for _, row in found:
        assert row.right or row.name in attention_table.EXPLAINED, row
    assert sum(row.right for _, row in found) >= 155
