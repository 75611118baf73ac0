"""Which dimension of a captured tensor is the head, and what attends to what.

Models lay out attention as (B, H, Q, K), fold heads into the batch (B*H, Q, K), fold windows
into it (B*W, H, Q, K), or keep them beside the heads (B, H, W, Q, K). Everything is brought to
(B', H, Q, K) here, as a view wherever the layout allows one.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ._modules import Running

_HEAD_NAMES = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead", "groups")
_CROSS_ARGS = (
    "key_value_states", "encoder_hidden_states", "context", "memory", "encoder_output",
    "cross_states", "key_states", "kv", "key",
)  # fmt: skip
_CROSS_NAME = re.compile(r"cross|encoder_attn|encdec|multihead_attn|co_?attn", re.IGNORECASE)
_CHANNEL_NAME = re.compile(r"channel|xca\b|crosscov|transposed", re.IGNORECASE)
_PLACE_ARGS = re.compile(r"mask|pos|rope|bias|rotary|cos|sin|object_queries|cache", re.IGNORECASE)


@dataclass(frozen=True)
class Fold:
    """How the leading dimensions of a raw tensor become (batch, heads).

    Attributes:
        lead: sizes of the leading dimensions of the raw tensors.
        axis: leading dimension that is the head; None if there is none.
        folded: heads that are folded into the first leading dimension (1: none).
        joined: the leading dimensions but the first are heads, all of them (groups and members).
        packed: heads of one group that lie among the queries of raw tensors, see `unpack`.
    """

    lead: tuple[int, ...]
    axis: int | None
    folded: int = 1
    joined: bool = False
    packed: int = 1

    def apply(self, tensor: Tensor) -> Tensor:
        """Return the tensor as (B', H', rows, columns); H' may differ (grouped key heads)."""
        if tensor.ndim == 4 and self.axis == 1 and len(self.lead) == 2 and self.folded == 1:
            return tensor
        tail = tuple(tensor.shape[-2:])
        lead = tuple(tensor.shape[:-2])
        if len(lead) < len(self.lead):
            lead = (1,) * (len(self.lead) - len(lead)) + lead
            tensor = tensor.reshape(lead + tail)
        if self.folded > 1:
            groups = 1 if lead[0] == 1 and self.lead[0] != 1 else self.folded
            tensor = tensor.reshape(lead[0] // groups, groups, *lead[1:], *tail)
            tensor = tensor.movedim(1, -3)  # (B, H, W, Q, K) -> (B, W, H, Q, K)
            return tensor.reshape(lead[0] // groups * math.prod(lead[1:]), groups, *tail)
        if not lead:
            return tensor[None, None]
        if self.joined:
            shared = math.prod(lead[1:])  # key heads of a group have one dimension less to give
            return tensor.reshape(lead[0], shared, *tail)
        if self.axis is None:
            return tensor.reshape(math.prod(lead), 1, *tail)
        if len(lead) == 1:
            return tensor[None]
        heads = lead[self.axis]
        batch = math.prod(lead[: self.axis] + lead[self.axis + 1 :])
        return tensor.movedim(self.axis, -3).reshape(batch, heads, *tail)

    def unpack(self, tensor: Tensor) -> Tensor:
        """Return what `apply` gave of queries or outputs with a head for each member of a group."""
        if self.packed == 1:
            return tensor
        batch, groups, rows, width = tensor.shape
        return tensor.reshape(batch, groups * self.packed, rows // self.packed, width)

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, heads) of what `apply` returns, unpacked."""
        if not self.lead:
            return 1, 1
        if self.packed > 1:
            return self.lead[0], self.lead[1] * self.packed
        if self.joined:
            return self.lead[0], math.prod(self.lead[1:])
        if self.folded > 1:
            return math.prod(self.lead) // self.folded, self.folded
        if self.axis is None:
            return math.prod(self.lead), 1
        if len(self.lead) == 1:
            return 1, self.lead[0]
        heads = self.lead[self.axis]
        return math.prod(self.lead[: self.axis] + self.lead[self.axis + 1 :]), heads

    def apply_mask(self, mask: Tensor) -> Tensor:
        """Return a mask that is broadcastable to the raw logits as one for the folded ones."""
        while mask.ndim < len(self.lead) + 2:
            mask = mask[None]
        if self.packed > 1:
            each = mask.shape[1] != 1 and mask.shape[-2] != 1
            return (
                self.unpack(mask) if each else mask[..., : max(1, mask.shape[-2] // self.packed), :]
            )
        if all(n == 1 for n in mask.shape[:-2]):
            return mask.reshape(1, 1, *mask.shape[-2:])
        if len(self.lead) == 2 and self.folded == 1 and self.axis == 1:
            return mask
        return self.apply(mask.expand(*self.lead, *mask.shape[-2:]))


def fold_of(
    lead: Sequence[int], modules: Sequence[Running], images: int | None, queries: int
) -> Fold:
    """Return the fold of raw tensors whose leading dimensions are `lead`.

    Args:
        lead: sizes before (queries, keys).
        modules: running modules, innermost first; the nearest two may name their heads.
        images: batch size of the model's input, if known.
        queries: the raw tensors' rows.
    """
    lead = tuple(lead)
    hint = heads_stated(modules)
    if not lead:
        return Fold(lead, None)
    base = images or 0
    in_first = bool(
        hint and hint > 1 and lead[0] % hint == 0 and lead[0] != base
        and (not base or (lead[0] // hint) % base == 0)
    )  # fmt: skip
    if len(lead) == 1:
        return Fold(lead, None, hint if in_first and hint else 1)
    if hint and len(lead) > 2 and math.prod(lead[1:]) == hint:
        return Fold(lead, None, joined=True)
    if len(lead) == 2 and in_first and hint and lead[0] == base * hint:
        # as many chunks as heads (Longformer): windows would have come to the module in its batch
        given = {t.shape[0] for _, t in modules[0].tensors if t.ndim > 2}
        if lead[1] != hint or (base in given and lead[0] not in given):
            return Fold(lead, None, hint)  # (B*H, windows, Q, K)
    if hint == 1 and len(lead) == 2 and lead[0] == base and _is_chunked(modules, lead[1], queries):
        return Fold(lead, None)  # (B, windows, Q, K)
    if hint and hint in lead[1:]:
        return Fold(lead, lead.index(hint, 1))
    return Fold(lead, 1 if len(lead) == 2 else len(lead) - 1)


def _is_chunked(modules: Sequence[Running], chunks: int, queries: int) -> bool:
    """Say whether the tokens that a module got are so many chunks of queries."""
    tokens = {t.shape[1] for _, t in modules[0].tensors if t.ndim == 3 and t.is_floating_point()}
    return chunks > 1 and tokens == {chunks * queries}


def heads_stated(modules: Sequence[Running]) -> int | None:
    """Return how many heads the nearest two running modules say that they have."""
    return next((h for h in (_heads(m.module) for m in modules[:2]) if h), None)


def packed_groups(shape: Sequence[int], modules: Sequence[Running]) -> int:
    """Return how many heads of a group lie among the queries (B, G, heads * Q, E); 1 for none.

    transformers does so with grouped queries under a mask, one token at a time.
    """
    module = modules[0].module if modules else None
    groups = getattr(module, "num_key_value_groups", None)
    heads = getattr(getattr(module, "config", None), "num_attention_heads", None)
    if not isinstance(groups, int) or not isinstance(heads, int) or len(shape) != 4 or groups < 2:
        return 1
    return groups if shape[1] * groups == heads and shape[2] % groups == 0 else 1


def _heads(module: nn.Module) -> int | None:
    config = getattr(module, "config", None)
    for owner in (module, config):
        for name in _HEAD_NAMES:
            number = getattr(owner, name, None)
            if isinstance(number, int) and not isinstance(number, bool):
                return number
    return None


def images_of(
    modules: Sequence[Running], queries: int, keys: int, lead: Sequence[int]
) -> int | None:
    """Return the batch size the model was called with, as seen from the running modules.

    Walks outwards from the innermost module. A model with inputs of several batch sizes (images
    and texts) is left out, since its branches have their own. None where it cannot be told: in
    `nn.MultiheadAttention` and wherever the sequence comes first, (Q, B, E).
    """
    if modules and isinstance(modules[0].module, nn.MultiheadAttention):
        return None
    found, inside = None, False
    for i, entry in enumerate(modules):
        rows = [t for _, t in entry.tensors if t.ndim == 3 and t.is_floating_point()][:1]
        # an inner module that got (B, queries, C): what lies around it has its batch first, too
        inside |= any(t.shape[1] == queries != t.shape[0] and lead[:1] == t.shape[:1] for t in rows)
        sizes = {t.shape[0] for _, t in entry.tensors if t.ndim >= 2 and t.shape[0] > 0}
        if not sizes:
            continue
        if len(sizes) > 1:
            if found is not None and i == len(modules) - 1:
                break
            sizes = {max(sizes) if found is None else found}
        found = next(iter(sizes))
        first = {t.shape[0] for _, t in entry.tensors if t.ndim == 3}
        if not inside and found in (queries, keys) and {queries, keys} <= first and any(
            t.ndim == 3 and t.shape[0] == found and t.shape[1] not in (queries, keys)
            and not (lead and lead[0] % t.shape[1])
            for _, t in entry.tensors
        ):  # fmt: skip
            return None
    return found


def kind_of(
    modules: Sequence[Running],
    *,
    fold: Fold,
    queries: int,
    keys: int,
    heads: int,
    width: int,
    windows: int,
    same: bool | None,
) -> str:
    """Return what attends to what: "self", "cross", "window" or "channel".

    Args:
        modules: running modules, innermost first.
        fold: how the raw tensors were folded.
        queries, keys, heads: sizes of the attention.
        width: last dimension of V (channels per head, or tokens for channel attention).
        windows: groups per image folded into the batch.
        same: whether queries and keys come from the same tokens, None where it is not known; then
            the module's arguments and names tell.
    """
    inner = modules[0] if modules else None
    alike = "window" if windows > 1 else "self"
    if inner is None:
        return "cross" if same is False else alike
    label = f"{inner.name.rsplit('.', 1)[-1]} {type(inner.module).__name__}"
    if _is_channel(inner, label, queries, keys, heads, width):
        return "channel"
    if same and queries < keys and (queries == 1 or _CROSS_NAME.search(label) or _has_keys(inner)):
        # a class token of another branch, a decoder that starts from what it reads, group tokens
        # that went through layers together with the patches (GroupViT)
        same = None
    crossing = _is_cross(inner, label, queries, keys) if same is None else not same
    return "cross" if crossing else alike


def _is_channel(
    inner: Running, label: str, queries: int, keys: int, heads: int, width: int
) -> bool:
    if queries != keys:
        return False
    for _, tensor in inner.tensors:
        if tensor.ndim == 3 and tensor.is_floating_point():
            tokens, channels = tensor.shape[1:]
            fits = queries * heads == channels and width == tokens
            return fits and (queries != tokens or bool(_CHANNEL_NAME.search(label)))
        if tensor.ndim == 4 and tensor.is_floating_point():
            sizes = {tensor.shape[1]: math.prod(tensor.shape[2:]),
                     tensor.shape[3]: math.prod(tensor.shape[1:3])}  # fmt: skip
            tokens = sizes.get(queries * heads)
            return tokens == width and queries != tokens
    return False


def _has_keys(inner: Running) -> bool:
    """Say whether a module got a tensor whose name says that it is looked at, beside another."""
    names = inspect.signature(inner.module.forward).parameters
    given = [(n, a) for n, a in (*zip(names, inner.args, strict=False), *inner.kwargs.items())
             if isinstance(a, Tensor) and a.ndim > 1 and a.is_floating_point()]  # fmt: skip
    return any(
        name in _CROSS_ARGS and not any(same_tensor(o, tensor) for n, o in given if n != name)
        for name, tensor in given[1:]
    )


def _is_cross(inner: Running, label: str, queries: int, keys: int) -> bool:
    module = inner.module
    if isinstance(module, nn.MultiheadAttention):
        named = dict(zip(("query", "key"), inner.args, strict=False)) | dict(inner.kwargs)
        query, key = named.get("query"), named.get("key")
        if isinstance(query, Tensor) and isinstance(key, Tensor):
            return not same_tensor(query, key) and (
                queries != keys or query.shape != key.shape or bool(_CROSS_NAME.search(label))
            )
    for name, tensor in inner.tensors:
        if name in _CROSS_ARGS and tensor.ndim >= 2 and tensor.is_floating_point():
            return not any(
                other is not tensor and same_tensor(other, tensor) for _, other in inner.tensors
            )
    if getattr(module, "is_cross_attention", False) or _CROSS_NAME.search(label):
        return True
    if queries == keys:
        return False
    sequences = [
        t for n, t in inner.tensors
        if t.ndim == 3 and t.is_floating_point() and not _PLACE_ARGS.search(n)
    ]  # fmt: skip
    others = [t for t in sequences[1:] if not same_tensor(t, sequences[0])]
    if any(keys in (t.shape[0], t.shape[1]) for t in others):
        return True
    return queries == 1 and has_state(inner, keys)


def has_state(inner: Running, keys: int) -> bool:
    """Say whether a module got a state (B, d) and then a sequence (B, keys, e) to look it up in."""
    floats = [t for _, t in inner.tensors if t.is_floating_point()]
    return (
        len(floats) > 1
        and floats[0].ndim == 2
        and floats[1].ndim == 3
        and floats[1].shape[:2] == (floats[0].shape[0], keys)
    )


def picture_of(modules: list[Running], kind: str, pairs: tuple[int, int]) -> tuple[int, int] | None:
    """Return the (height, width) in pixels of the input that the outermost module got."""
    picture = None
    for entry in modules:
        tensors = entry.tensors
        # a model with words and a picture: only its cross-attention is known to see the picture
        words = any(not t.is_floating_point() and t.ndim == 2 for _, t in tensors)
        for name, tensor in tensors:
            if (
                tensor.ndim == 4
                and tensor.shape[1] <= 4
                and tensor.is_floating_point()
                and (not words or kind == "cross")
                and (entry is modules[-1] or tuple(tensor.shape[2:]) != pairs)
                and not _PLACE_ARGS.search(name)
            ):
                picture = (int(tensor.shape[2]), int(tensor.shape[3]))
    return picture


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors are one and the same memory, seen the same way."""
    return a is b or (
        a.shape == b.shape and a.stride() == b.stride() and a.data_ptr() == b.data_ptr()
    )


def stated_line(
    tokens: int, modules: Sequence[nn.Module], image: tuple[int, int] | None
) -> tuple[int, tuple[int, int]] | None:
    """Return (prefix tokens, (rows, columns)) of `tokens` tokens by what a model states of them.

    Args:
        tokens: number of tokens.
        modules: those around the attention, innermost first.
        image: (height, width) of the model's input in pixels, or None if it is no image.

    Returns:
        None unless a patch size or a grid is stated and exactly one reading agrees with it.
    """
    from ...models.evidence import ancestors
    from ...models.tokens import grids, token_facts

    if image is None or not modules:
        return None
    facts = token_facts([modules[0], *ancestors(modules[-1], modules[0])])
    if not facts.patches and not facts.grids:
        return None
    found = grids(tokens, facts, image)
    return found[0][:2] if len(found) == 1 else None
