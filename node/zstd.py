"""zstd: from Python 3.14 on it is in the standard library; before, the same code comes as a package."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor, ZstdDecompressor, compress, decompress
else:
    from backports.zstd import ZstdCompressor, ZstdDecompressor, compress, decompress

__all__ = ["ZstdCompressor", "ZstdDecompressor", "compress", "decompress"]
