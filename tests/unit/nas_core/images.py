"""Image files as Pillow does not write them."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def png(file: Path, values: Any, bits: int, colour_type: int, key: bytes = b"", sbit: bytes = b"") -> None:
    """Write a PNG of any depth: `values` (H, W) or (H, W, channels), of 2, 4 or 16 bits."""
    height, width = values.shape[:2]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = values.reshape(height, -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        each = np.unpackbits(rows.astype(np.uint8)[:, :, None], axis=2)[:, :, 8 - bits :]
        packed = np.packbits(each.reshape(height, -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = (chunk(b"sBIT", sbit) if sbit else b"") + (chunk(b"tRNS", key) if key else b"")
    end = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + end)


def tiff(file: Path, values: Any, *tags: tuple[int, int, int], order: str = "<", sample_format: int = 1) -> None:
    """Write an uncompressed TIFF of `values` (H, W) or (H, W, channels), with further tags (number, type, value)."""
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    bits = values.dtype.itemsize * 8
    entries = {256: (4, width), 257: (4, height), 258: (3, bits), 259: (3, 1), 262: (3, 1 if channels == 1 else 2)}
    entries |= {273: (4, 8), 277: (3, channels), 278: (4, height), 279: (4, len(data)), 339: (3, sample_format)}
    entries |= {number: (kind, value) for number, kind, value in tags}
    start = 8 + len(data)
    after = start + 2 + 12 * len(entries) + 4
    directory, further = struct.pack(order + "H", len(entries)), b""
    for number, (kind, value) in sorted(entries.items()):
        if number in (258, 339) and channels > 1:
            place = struct.pack(order + "I", after + len(further))
            further += struct.pack(f"{order}{channels}H", *[value] * channels)
            directory += struct.pack(order + "HHI", number, kind, channels) + place
        else:
            place = struct.pack(order + ("H2x" if kind == 3 else "I"), value)
            directory += struct.pack(order + "HHI", number, kind, 1) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    file.write_bytes(mark + struct.pack(order + "I", start) + data + directory + b"\0" * 4 + further)


def bomb(file: Path) -> None:
    png(file, np.zeros((1, 1)), 16, 0)
    data = bytearray(file.read_bytes())
    data[16:24] = struct.pack(">II", 14_000, 14_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    file.write_bytes(data)
