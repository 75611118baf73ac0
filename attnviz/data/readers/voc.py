"""Pascal VOC: Annotations/*.xml, JPEGImages/, SegmentationClass/."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ... import limits
from ...errors import DataError
from ..dataset import READERS, Dataset, build, split_name
from ..masks import MaskFile
from ..sample import Box, Sample
from ._common import IMAGE_SUFFIXES, image_root, inside, number, whole_size

#: the classes in the order of the numbers in SegmentationClass (1-20; 255 is void)
VOC_CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]


def detect(root: Path) -> bool:
    """Return whether a folder has annotations in XML."""
    folder = root / "Annotations"
    return folder.is_dir() and any(p.suffix == ".xml" for p in folder.iterdir())


def parse_xml(path: Path) -> Element:
    """Parse a small XML file. A document type (and with it any entity) is refused.

    Raises:
        DataError: too large, not XML, nested deeper than 32, or with a document type.
    """
    limits.check("xml_bytes", path.stat().st_size, str(path))
    builder = TreeBuilder()
    depth = 0

    def refuse(*_: object) -> None:
        raise DataError(
            f"{path} declares a document type or entities; VOC files have none: refused"
        )

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > 32:
            raise DataError(f"{path} nests elements deeper than 32")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as fault:
        raise DataError(f"{path} is not readable as XML: {fault}") from fault
    return builder.close()


@READERS.register("voc", detect=detect)
def read_voc(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """Pascal VOC folder: boxes of Annotations/*.xml, masks of SegmentationClass/*.png.

    VOC counts pixels from 1 and includes the last one, so (xmin, ymin, xmax, ymax) becomes the
    half-open (xmin - 1, ymin - 1, xmax, ymax). Samples listed in ImageSets/Main/train.txt,
    val.txt or test.txt carry that split.
    """
    folder = root / "Annotations"
    if not folder.is_dir():
        raise DataError(f"{root}: expected a folder 'Annotations' with XML files, as VOC has it")
    base = image_root(root, images, "JPEGImages", "images")
    splits = _splits(root / "ImageSets" / "Main")
    files = sorted(p for p in folder.iterdir() if p.suffix == ".xml")
    entries = [partial(_sample, root, base, p, splits.get(p.stem)) for p in files]
    dataset = build(entries, classes=None, root=root, format="voc", faults=faults)
    if set(dataset.classes) <= set(VOC_CLASSES):
        return Dataset(dataset.samples, tuple(VOC_CLASSES), root, "voc")
    return dataset


def _splits(folder: Path) -> dict[str, str]:
    found = {}
    for name in ("train", "val", "test"):
        file = folder / f"{name}.txt"
        if file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    found[line.split()[0]] = split_name(name)
    return found


def _sample(root: Path, base: Path, file: Path, split: str | None) -> Sample:
    tree = parse_xml(file)
    name = tree.findtext("filename") or ""
    path = inside(base, name.strip(), file.name) if name.strip() else base / file.stem
    if not path.is_file():
        # Other tools write a stale file name; the annotation's own stem is VOC's rule.
        near = [p for s in IMAGE_SUFFIXES if (p := base / f"{file.stem}{s}").is_file()]
        path = near[0] if near else path
    size = whole_size(tree.findtext("size/height"), tree.findtext("size/width"), file.name)
    boxes = []
    for item in tree.iter("object"):
        label = (item.findtext("name") or "").strip()
        if not label:
            raise DataError(f"{file}: an object has no name")
        edges = [
            number(item.findtext(f"bndbox/{k}"), f"{file.name}, object {label!r}, {k}")
            for k in ("xmin", "ymin", "xmax", "ymax")
        ]
        box = Box(edges[0] - 1, edges[1] - 1, edges[2], edges[3], label)
        boxes.append(box.checked(size, file.name))
    labels = tuple(dict.fromkeys(b.label for b in boxes))
    masks = {}
    segmentation = root / "SegmentationClass" / f"{file.stem}.png"
    if segmentation.is_file():
        for label in labels:
            if label in VOC_CLASSES:
                masks[label] = MaskFile(segmentation, (VOC_CLASSES.index(label) + 1,))
        masks["void"] = MaskFile(segmentation, (255,))
    return Sample(
        id=file.stem,
        image=path,
        labels=labels,
        boxes=tuple(boxes),
        masks=masks,
        size=size,
        split=split,
    )
