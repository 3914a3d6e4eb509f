"""Bodies with `Content-Encoding: br`, which warcio alone cannot read.

warcio 1.8 sets `unused_data` on brotli's decompressor and calls its `decompress`; brotli 1.2 has neither, so every such
record ended in an AttributeError. Importing this module puts a decompressor that has both in warcio's table.
"""

import brotli
from warcio.bufferedreaders import BufferedReader


class BrotliDecompressor:
    """What warcio asks of a decompressor."""

    def __init__(self) -> None:
        self.unused_data = b""
        self._inner = brotli.Decompressor()

    def decompress(self, data: bytes) -> bytes:
        """The plain bytes of the next part. Raises brotli.error when it is none: warcio then keeps the bytes."""
        return bytes(self._inner.process(data))


BufferedReader.DECOMPRESSORS["br"] = BrotliDecompressor
