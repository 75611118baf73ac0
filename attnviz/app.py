"""A page to drop a photo on: its map, attention, boxes and top classes, in a browser.

`attnviz serve` shows it on this machine. Copied as `app.py` of a Hugging Face Space (SDK gradio,
and `attnviz[app]` in its requirements.txt) it runs there, with the models named at the end.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import attnviz
from attnviz import limits
from attnviz.errors import AttnvizError, DataError, TargetError, optional
from attnviz.models.outputs import probabilities

#: of an upload: bytes, and width x height
UPLOAD_BYTES = 20_000_000
UPLOAD_PIXELS = 50_000_000

_SAME, _DEFAULT = "(none)", "(default)"
_FILES = ("region", "embedding")
_AUDIT_FILES = ("audit.json", "report.html")
_SHOWN, _BOXES = 900, 5  # pixels of the longer side of what is sent to the browser, and boxes


def page(
    models: Mapping[str, Any],
    *,
    audits: Sequence[str | Path] = (),
    upload_bytes: int = UPLOAD_BYTES,
) -> Any:
    """Return the page as Gradio's blocks, ready for `launch`.

    Args:
        models: what `attnviz.load` returned, by the name that is chosen from. Only these can be
            chosen: a name from the browser is never loaded.
        audits: folders of finished audits, whose reports can be opened, these alone.
        upload_bytes: the largest photo taken.

    Raises:
        DataError: a folder of `audits` holds no finished audit.
        EnvironmentFault: gradio is not installed.

    Example:
        >>> page({"net": attnviz.load(None)}).launch()  # doctest: +SKIP
    """
    gr = _gradio()
    methods, names = sorted(attnviz.METHODS.names()), list(models)
    reports = dict(_audit(Path(folder)) for folder in audits)
    here = copy_context()  # the server's threads do not see what `reading` and the like say here

    def look(upload, name, method, layer, target, other_name, other_method):  # type: ignore[no-untyped-def]
        try:
            return here.copy().run(
                _look, models, upload, name, method, layer, target, other_name, other_method
            )
        except AttnvizError as error:  # its text holds what was typed: shown as text alone
            raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from error

    def layers(name):  # type: ignore[no-untyped-def]
        found = here.copy().run(_layers, models[name])
        return gr.Dropdown(choices=[_DEFAULT, *found], value=_DEFAULT)

    with gr.Blocks(title="attnviz", analytics_enabled=False, delete_cache=(600, 1800)) as blocks:
        gr.Markdown("# What does the model look at?")
        audit = gr.Dropdown(
            [_SAME, *reports], value=_SAME, label="Audit", elem_id="audit", visible=bool(reports)
        )
        report = gr.HTML(elem_id="report", visible=False)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = gr.File(
                    label=f"Photo, at most {upload_bytes // 1_000_000} MB", type="filepath",
                    file_types=["image"], elem_id="photo", height=120,
                )  # fmt: skip
                name = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                method = gr.Dropdown(methods, value="gradcam", label="Method", elem_id="method")
                layer = gr.Dropdown(
                    [_DEFAULT], value=_DEFAULT, label="Layer", elem_id="layer",
                    info="where the map is made",
                )  # fmt: skip
                target = gr.Textbox(
                    label="Target", elem_id="target", max_lines=1, max_length=300,
                    info="a class, its number, or contrast:A,B; the predicted class if empty",
                )  # fmt: skip
                gr.Markdown("Compare with")
                other_method = gr.Dropdown(
                    [_SAME, *methods], value=_SAME, label="Another method", elem_id="other-method"
                )
                other_name = gr.Dropdown(
                    [_SAME, *names], value=_SAME, label="Another model", elem_id="other-model",
                    visible=len(names) > 1,
                )  # fmt: skip
                button = gr.Button("Look", variant="primary", elem_id="look")
            with gr.Column(scale=3, min_width=320):
                shown = dict(interactive=False, buttons=["download", "fullscreen"], format="png")
                first = gr.Image(show_label=False, elem_id="map", alt_text="map", **shown)
                second = gr.Image(
                    show_label=False, elem_id="other", alt_text="map compared", visible=False,
                    **shown,
                )  # fmt: skip
                with gr.Row():
                    boxes = gr.AnnotatedImage(elem_id="boxes", format="png", show_label=False)
                    classes = gr.Label(label="Top classes", elem_id="classes", num_top_classes=5)
                attention = gr.Image(
                    show_label=False, elem_id="attention", alt_text="attention", visible=False,
                    **shown,
                )  # fmt: skip
                facts = gr.Textbox(label="What was run", elem_id="facts", lines=4)
        one_at_a_time = dict(concurrency_limit=1, concurrency_id="model", api_visibility="private")
        audit.change(
            lambda chosen: gr.HTML(_framed(reports.get(chosen)), visible=chosen in reports),
            audit, report, api_visibility="private",
        )  # fmt: skip
        name.change(layers, name, layer, **one_at_a_time)
        blocks.load(layers, name, layer, **one_at_a_time)
        button.click(
            look, [upload, name, method, layer, target, other_name, other_method],
            [first, second, boxes, classes, attention, facts], **one_at_a_time,
        )  # fmt: skip
    return blocks.queue(max_size=16)


def launch(
    blocks: Any,
    *,
    host: str | None = None,
    port: int | None = None,
    upload_bytes: int = UPLOAD_BYTES,
    wait: bool = True,
) -> str:
    """Serve the page until it is closed, without a share link; returns its address.

    Args:
        blocks: what `page` returned.
        host: the address listened on; None: this machine alone, or what GRADIO_SERVER_NAME says.
        port: None: the first that is free from 7860 on.
        upload_bytes: the largest photo taken.
        wait: False returns at once and serves from threads.

    Raises:
        OSError: the port is taken.
    """
    gr = _gradio()
    plain = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=plain, font_mono=["monospace"])  # its own fonts are fetched
    _, address, _ = blocks.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=not wait,
        max_file_size=upload_bytes, footer_links=[], theme=theme, ssr_mode=False, pwa=False,
        enable_monitoring=False, mcp_server=False, run_history=False,
    )  # fmt: skip
    return address


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when it is imported
    return optional("gradio", "app")


def _audit(folder: Path) -> tuple[str, Path]:
    """Return what an audit found, and its report."""
    found, report = (folder / name for name in _AUDIT_FILES)
    missing = [path.name for path in (found, report) if not path.is_file()]
    if missing:
        raise DataError(
            f"{str(folder)!r} holds no finished audit: no {' and no '.join(missing)} in it; name "
            "the folder that `attnviz audit --out` wrote"
        )
    audit = limits.read_json(found)
    with limits.reading(found):
        if not audit["schema"].startswith("attnviz.audit"):
            raise DataError(f"{str(found)!r} was not written by `attnviz audit`")
        last = audit.get("after", audit)
        return f"{folder}: {last['model']} {last['verdict']['text']}", report


def _framed(report: Path | None) -> str:
    """Return a report in a frame whose scripts cannot reach the page around it."""
    if report is None:
        return ""
    text = limits.read_bytes(report).decode("utf-8")
    return (
        f'<iframe title="report" sandbox="allow-scripts" srcdoc="{html.escape(text)}" '
        'style="width: 100%; height: 85vh; border: 0"></iframe>'
    )


def _look(
    models: Mapping[str, Any], upload: str | None, name: str, method: str, layer: str,
    target: str, other_name: str, other_method: str,
) -> tuple[Any, ...]:  # fmt: skip
    gr = _gradio()
    if upload is None:
        raise AttnvizError("no photo yet: drop one on the field above, or click it")
    kind = target.partition(":")[0].strip().lower()
    if kind in _FILES:
        raise TargetError(f"target {kind}: names a file of the server's and is not taken here")
    with limits.raised(pixels=UPLOAD_PIXELS):
        photo = attnviz.read_image(upload)

    def maps(name: str, method: str, layer: str) -> Any:
        return attnviz.explain(
            models[name], photo, method=method, layer=None if layer == _DEFAULT else layer,
            target=target.strip() or None,
        )  # fmt: skip

    found = maps(name, method, layer)
    other, compared = None, (other_name, other_method)
    if compared != (_SAME, _SAME):
        own = other_name in (_SAME, name)  # a layer's name holds for its model alone
        other = maps(
            name if own else other_name, method if other_method == _SAME else other_method,
            layer if own else _DEFAULT,
        )  # fmt: skip
    attention, why = _attention(models[name], photo)
    boxes = found.boxes(0.5, which="all")[0][:_BOXES].tolist()
    lines = [_facts(m) for m in (found, other) if m is not None]
    lines.append(f"Boxes round what is above half of the range (left, top, right, bottom): {boxes}")
    return (
        found.panel(0),
        gr.Image(value=None if other is None else other.panel(0), visible=other is not None),
        _boxed(photo, boxes),
        _classes(found, models[name].labels),
        gr.Image(value=attention, visible=attention is not None),
        "\n".join(lines + why),
    )


def _layers(loaded: Any) -> list[str]:
    """Return the layers that have positions, the last first."""
    from attnviz.models.prompts import image_half

    try:
        rows = attnviz.models.list_layers(image_half(loaded))
    except AttnvizError:
        return []
    usable = [r.name for r in rows if "position" not in r.note and len(r.shape) > 1]
    return usable[::-1]


def _attention(loaded: Any, photo: np.ndarray) -> tuple[Any, list[str]]:
    try:
        return attnviz.explain(loaded, photo, method="rollout").panel(0), []
    except AttnvizError as error:
        return None, [f"No attention: {error}"]


def _boxed(
    photo: np.ndarray, boxes: list[list[int]]
) -> tuple[Image.Image, list[tuple[tuple[int, ...], str]]]:
    """Return the photo small, and the boxes on it."""
    small = Image.fromarray(photo)
    small.thumbnail((_SHOWN, _SHOWN))
    factor = small.width / photo.shape[1]
    placed = [tuple(round(edge * factor) for edge in box) for box in boxes]
    return small, [(box, f"box {n + 1}") for n, box in enumerate(placed)]


def _classes(maps: Any, labels: Any) -> dict[str, float] | None:
    share = None if maps.logits is None else probabilities(maps.logits)
    if share is None:
        return None
    best = share[0].topk(min(5, share.shape[1]))
    which = best.indices.tolist()
    names = [labels[i] if labels else f"class {i}" for i in which]
    keys = [f"{n} ({i})" if names.count(n) > 1 else n for n, i in zip(names, which, strict=True)]
    return dict(zip(keys, best.values.tolist(), strict=True))


def _facts(maps: Any) -> str:
    low, high = float(maps.values.min()), float(maps.values.max())
    return (
        f"{maps.meta['model']}: {maps.method}{' at ' + maps.layer if maps.layer else ''}, "
        f"{maps.label[0]}, score {float(maps.score[0]):.4g}; map {low:.3g} to {high:.3g} "
        f"{maps.units}; {maps.meta.get('preprocess', '')}"
    )


if __name__ == "__main__":  # a Space, or `python app.py`
    launch(page({"EfficientNet-Lite0": attnviz.load(None)}))
