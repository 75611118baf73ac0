"""Small files that open into gigabytes, and command lines that read them."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def png(width: int, height: int) -> bytes:
    """Return a black PNG of one bit a pixel; its size is a thousandth of its pixels."""
    packer = zlib.compressobj(9)
    line = b"\0" * (1 + (width + 7) // 8)
    data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    )


def checkpoint(path: Path, size: int) -> None:
    """Write an archive as torch does, compressed, whose one tensor has `size` bytes."""
    import torch

    torch.save({"features.weight": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as plain:
        parts = {i.filename: plain.read(i) for i in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            with packed.open(name, "w", force_zip64=True) as out:
                out.write(data)
                for _ in range(size >> 24 if name.endswith("/0") else 0):
                    out.write(bytes(1 << 24))


def bombs(top: Path) -> dict[str, list[str]]:
    """Write the files; return what is wrong -> a command line that must be refused."""
    top.mkdir()
    photo, out = str(top / "photo.png"), str(top / "out")
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(photo)
    tiny = ("--model", "tests.cli.tiny:colours", "--out", out)
    found = {}

    def read(name: str, data: bytes) -> None:
        (top / name).write_bytes(data)
        found[name] = ["explain", str(top / name), *tiny]

    read("large.png", png(60_000, 60_000))
    read(
        "large.gif",
        b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
    )
    sof = b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\1\x03\x11\1\xff\xd9"
    read("large.jpg", sof)
    tags = [(256, 200_000), (257, 200_000), (258, 8), (259, 8), (262, 1), (273, 8), (277, 1),
            (278, 200_000), (279, 16)]  # fmt: skip
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags)
    read("large.tif", b"II*\0" + struct.pack("<I", 24) + bytes(16) + ifd + bytes(4))
    read("large.qoi", b"qoif" + struct.pack(">II", 100_000, 100_000) + b"\3\0" + b"\xfd" * 100)
    read("large.webp", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff")

    (top / "deep.json").write_text("[" * 1_000_000)
    found["deep labels"] = ["explain", photo, *tiny, "--labels", str(top / "deep.json")]
    found["deep settings"] = ["explain", photo, *tiny, "--preprocess", str(top / "deep.json")]
    checkpoint(top / "packed.pt", 3 << 30)
    found["packed checkpoint"] = ["explain", photo, *tiny, "--checkpoint", str(top / "packed.pt")]

    def annotated(name: str, mask: object, **size: int) -> None:
        folder = top / name
        folder.mkdir()
        for k in range(2):
            Image.fromarray(np.full((64, 48, 3), k, np.uint8)).save(folder / f"{k}.png")
        document = {
            "images": [{"id": k, "file_name": f"{k}.png", **size} for k in range(2)],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "segmentation": mask}],
            "categories": [{"id": 0, "name": "boat"}],
        }
        (folder / "annotations.json").write_text(json.dumps(document))
        found[name] = ["audit", "--data", str(folder), "--object", "boat", *tiny]

    annotated("stated size", [[0, 0, 9, 0, 9, 9]], width=90_000, height=90_000)
    annotated("runs", {"size": [60_000, 60_000], "counts": [3_600_000_000]})
    annotated("zigzag", [[v for i in range(50_000) for v in (i % 48, 4000 * (i % 2))] * 30])
    return found
