"""Class names from a file or an object, in every common form: one reader for all commands."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .. import limits
from ..errors import DataError, ModelError, did_you_mean
from .environment import import_torchvision

#: keys under which a checkpoint or a config holds class names, the strongest first
_KEYS = ("id2label", "class_to_idx", "labels", "classes", "class_names", "names", "categories")
_KEYS += ("label2id", "idx_to_class", "CLASSES")
_HEADERS = {"name", "label", "class", "class_name", "category", "display_name"}
_NUMBERS = {"index", "id", "idx", "class_id", "number"}
#: a part of a list or mapping in brackets, up to the comma behind it; it matches anywhere
_PART = re.compile(r"\s*((?:\d+\s*:\s*)?(?:'(?:[^']|'')*'|\"[^\"]*\")(?=\s*(?:,|$))|[^,]*)\s*")
_FORMS = (
    "one name a line, a JSON list, {index: name}, {name: index}, ImageNet's class-index JSON, CSV, "
    "YAML with `names:`, or a Hugging Face config.json"
)


def imagenet_labels() -> tuple[str, ...]:
    """Return the 1000 ImageNet-1k class names in the usual order, each of them once."""
    weights = import_torchvision().models.ResNet18_Weights.DEFAULT
    return tuple(weights.meta["categories"])


def read_labels(given: str | Path) -> tuple[str, ...]:
    """Read class names, in the order of the logits.

    Args:
        given: a file, the word "imagenet" (the 1000 ImageNet-1k names), or names with commas
            between them. A file holds one name a line, or is JSON (a list, `{index: name}`,
            `{name: index}` as torchvision's `class_to_idx`, `{index: [synset, name]}`, a Hugging
            Face config), CSV (names, or an index and a name) or YAML with `names:`.

    Raises:
        ModelError: the file is missing, empty or of another form, or leaves an index without a
            name.

    Example:
        >>> read_labels("ant, bee, cat")
        ('ant', 'bee', 'cat')
    """
    text = str(given)
    if text.lower() == "imagenet":
        return imagenet_labels()
    path = Path(text).expanduser()
    if not os.path.isfile(path):  # also of a name too long to be one
        if isinstance(given, str) and "," in text:
            return as_labels([name.strip() for name in text.split(",")], "the names given")
        near = [p.name for p in path.parent.glob("*")] if os.path.isdir(path.parent) else []
        why = "it is a folder" if os.path.isdir(path) else "no such file"
        meant = did_you_mean(path.name, [n for n in near if n != path.name])
        raise ModelError(
            f"labels {text!r} cannot be read: {why}{meant.removesuffix('?')}; give a "
            "file, imagenet, or the names with commas between them"
        )
    try:
        content = limits.read_bytes(path)
        # files of Windows say by their first two bytes that they are UTF-16
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        content = content.decode("utf-16" if wide else "utf-8").removeprefix("\ufeff")
        stored = _parse(content, path.suffix.lower())
    except (DataError, ValueError, csv.Error) as error:
        raise ModelError(f"labels {path} cannot be read: {error}; expected {_FORMS}") from error
    return as_labels(stored, f"labels {path}")


def as_labels(stored: Any, what: str = "labels") -> tuple[str, ...]:
    """Return class names in the order of the logits from any object that holds them.

    Args:
        stored: a list of names, a mapping of indices to names or of names to indices, or a
            mapping that holds one of these under `id2label`, `class_to_idx`, `names` and the like.
        what: where it comes from, for messages.

    Raises:
        ModelError: it is of another form, or leaves an index without a name.
    """
    if isinstance(stored, str | Path):
        return read_labels(stored)
    if isinstance(stored, Mapping):
        key = next((k for k in _KEYS if isinstance(stored.get(k), Mapping | list | tuple)), None)
        if key is not None:
            return as_labels(stored[key], what)
        stored = _ordered(stored, what)
    elif isinstance(stored, list | tuple) and (numbers := _numbers(stored)):
        stored = _ordered(numbers, what)  # COCO's categories: ids from 1, with gaps
    if not isinstance(stored, list | tuple):
        raise ModelError(
            f"{what} cannot be read: a {type(stored).__name__} is no list of names; "
            f"expected {_FORMS}"
        )
    names = [_name(value, what) for value in stored]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise ModelError(f"{what} must name every class, without empty names or lines")
    return tuple(names)


def labels_in(stored: Any) -> tuple[str, ...] | None:
    """Return the class names that a checkpoint holds beside its weights, or None."""
    if not isinstance(stored, Mapping):
        return None
    for key in _KEYS:
        found = stored.get(key)
        if isinstance(found, Mapping | list | tuple) and found:
            try:
                return as_labels(found)
            except ModelError:
                continue  # something else of that name
    for key in ("meta", "config", "hyper_parameters", "hparams", "dataset_meta", "args"):
        inner = stored.get(key)
        inner = inner if isinstance(inner, Mapping) else getattr(inner, "__dict__", None)
        if inner:
            found = labels_in(inner)
            if found is not None:
                return found
    return None


def _name(value: Any, what: str) -> str:
    if isinstance(value, list | tuple) and len(value) == 2:  # ImageNet: a synset and its name
        value = value[1]
    if isinstance(value, Mapping):
        value = next((value[k] for k in _HEADERS if k in value), value)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ModelError(f"{what} cannot be read: {value!r:.60} is no name; expected {_FORMS}")
    return str(value).strip()


def _numbers(stored: Sequence[Any]) -> dict[Any, Any] | None:
    """Return {number: name} of a list of mappings that all state their number, or None."""
    found = [
        {k: one[k] for k in _NUMBERS if k in one} if isinstance(one, Mapping) else {}
        for one in stored
    ]
    if not all(len(one) == 1 for one in found):
        return None
    index = [next(iter(one.values())) for one in found]
    return dict(zip(index, stored, strict=True)) if len(set(index)) == len(index) else None


def _lines(text: str) -> Any:
    """Return the names, one a line; where every line counts them, {number: name}."""
    lines = text.rstrip().splitlines()
    found = [re.fullmatch(r"\s*(\d+)\s*[:,;\s]\s*(\S.*)", line) for line in lines]
    index = [int(one[1]) for one in found if one]
    if len(index) == len(lines) > 1 and index in [[*range(s, s + len(lines))] for s in (0, 1)]:
        return {one[1]: one[2] for one in found if one}
    return lines


def _ordered(stored: Mapping[Any, Any], what: str) -> list[Any]:
    def numbers(values: Iterable[Any]) -> list[int] | None:
        try:
            return [int(v) if not isinstance(v, bool | float) else int("no") for v in values]
        except (ValueError, TypeError):
            return None

    index, names = numbers(stored), list(stored.values())
    if index is None:
        index, names = numbers(stored.values()), list(stored)
    if index is None:
        raise ModelError(
            f"{what} cannot be read: neither its keys nor its values are indices; expected {_FORMS}"
        )
    if sorted(index) != list(range(len(index))):
        first = min(index, default=0)
        hint = " (it counts from 1: is there a background class 0?)" if first == 1 else ""
        have, most = set(index), max(index, default=0)
        # not all of them: a single large index would fill the memory
        gone = list(islice((i for i in range(most) if i not in have), 3))
        raise ModelError(
            f"{what} cannot be read: {len(index)} names, but "
            + (f"none for index {', '.join(map(str, gone))}{hint}" if gone else "indices repeat")
            + "; name every class from 0 on"
        )
    return [name for _, name in sorted(zip(index, names, strict=True), key=lambda pair: pair[0])]


def _parse(text: str, suffix: str) -> Any:
    if suffix == ".json":
        return limits.parse_json(text, "it")
    if suffix in (".yaml", ".yml"):
        return _yaml_names(text)
    if suffix in (".csv", ".tsv"):
        return _table(text, "\t" if suffix == ".tsv" else None)
    return _lines(text)


def _table(text: str, delimiter: str | None) -> Any:
    first = text.partition("\n")[0]
    delimiter = delimiter or max(",;\t", key=first.count)
    rows = [[c.strip() for c in r] for r in csv.reader(text.splitlines(), delimiter=delimiter)]
    rows = [row for row in rows if any(row)]
    if not rows:
        return []
    head = [cell.lower() for cell in rows[0]]
    name = next((i for i, cell in enumerate(head) if cell in _HEADERS), None)
    number = next((i for i, cell in enumerate(head) if cell in _NUMBERS), None)
    if name is not None:
        rows = rows[1:]
    elif number is not None and len(head) == 2:
        name, rows = 1 - number, rows[1:]
    elif len(head) == 1:
        name = 0
    elif len(head) == 2 and any(all(r[i].isdecimal() for r in rows if len(r) == 2) for i in (0, 1)):
        number = 0 if all(r[0].isdecimal() for r in rows) else 1
        name = 1 - number
    else:
        raise ValueError(
            f"which of its columns ({', '.join(rows[0][:6])}) holds the names is not known; give "
            "it a header with name or label (and index)"
        )
    if any(len(row) <= max(name, number or 0) for row in rows):
        raise ValueError("its rows differ in length")
    if number is None:
        return [row[name] for row in rows]
    pairs = [(row[number], row[name]) for row in rows]
    if len({index for index, _ in pairs}) < len(pairs):
        raise ValueError("an index stands in two rows")
    return dict(pairs)


def _yaml_names(text: str) -> Any:
    """Read `names:` of a YAML file: a list or {index: name}, in lines or in brackets."""
    lines = [line.rstrip() for line in text.splitlines()]
    start = next((i for i, line in enumerate(lines) if re.match(r"names\s*:", line)), None)
    if start is None:
        raise ValueError("it has no `names:` at the left margin")
    rest = _uncommented(lines[start].partition(":")[2]).strip()
    if rest:
        parts, closing = [rest], "]" if rest[0] == "[" else "}"
        while rest[0] in "[{" and not parts[-1].endswith(closing):
            start += 1
            if start >= len(lines):
                raise ValueError("the bracket after `names:` is not closed")
            parts.append(_uncommented(lines[start]).strip())
        return _flow(" ".join(parts))
    found: list[tuple[str | None, str]] = []
    for line in lines[start + 1 :]:
        bare = _uncommented(line).strip()
        if not bare:
            continue
        item = re.match(r"-\s+(.*)", bare)
        pair = re.match(r"(\d+)\s*:\s+(.*)", bare)
        if item:
            found.append((None, _unquoted(item[1])))
        elif pair and line[0].isspace():
            found.append((pair[1], _unquoted(pair[2])))
        else:
            break  # the next key
    if any(key is None for key, _ in found):
        return [name for _, name in found]
    return dict(found)  # type: ignore[arg-type]


def _uncommented(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line)


def _unquoted(text: str) -> str:
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1].replace("''", "'") if quoted else text


def _flow(text: str) -> Any:
    if text[0] not in "[{":
        raise ValueError("after `names:` a list or a mapping is expected")
    inside, at = text[1:-1], 0
    parts: list[str] = []
    while at < len(inside):
        found = _PART.match(inside, at)
        assert found is not None
        at = found.end() + 1
        if found[1].strip():
            parts.append(found[1])
    if text[0] == "[":
        return [_unquoted(part) for part in parts]
    pairs = [part.partition(":") for part in parts]
    return {key.strip(): _unquoted(value) for key, _, value in pairs}
