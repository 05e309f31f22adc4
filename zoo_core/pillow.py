"""Pillow reads and writes .zoo files once this module is imported.

    import zoo_core.pillow
    from PIL import Image

    Image.open("photo.jpg").save("photo.zoo", codec="weconvene-q3")
    Image.open("photo.zoo").save("photo.png")

`save` takes `codec`, a name for `zoo_core.load`, and every keyword of `Codec.encode`; `exif` and `icc_profile`
as everywhere in Pillow. `open` reads the header only: size, mode and metadata are there at once, pixels when
they are asked for.
"""

from __future__ import annotations

from typing import IO

from PIL import Image, ImageFile

from zoo_core import codec, container
from zoo_core.constants import DEFAULT_MODEL
from zoo_core.container import MAGIC, Section

FORMAT = "ZOO"


class ZooImageFile(ImageFile.ImageFile):
    """A .zoo file that Pillow has opened; `info` has "method", "level" and the metadata."""

    format = FORMAT
    format_description = "Learned codecs of the zoo"

    def _open(self) -> None:
        assert self.fp is not None
        self._data: bytes | None = self.fp.read()
        facts = container.inspect(self._data)
        _, sections = container.read(self._data)
        self._size, self._mode = (facts.width, facts.height), facts.mode
        self.info.update({"method": facts.method, "level": facts.level})
        for name, section in (("icc_profile", Section.ICC), ("exif", Section.EXIF)):
            if section in sections:
                self.info[name] = sections[section]

    def load(self) -> Image.core.PixelAccess | None:
        """Decode the pixels, once."""
        if self._data is not None:
            self.im = codec.decode(self._data).im
            self._data = None
        return Image.Image.load(self)


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    options = dict(image.encoderinfo)
    metadata = {key: options.pop(key) for key in ("exif", "icc_profile") if key in options}
    if isinstance(metadata.get("exif"), Image.Exif):
        metadata["exif"] = metadata["exif"].tobytes()
    if metadata:
        image = image.copy()
        image.info.update(metadata)
    writer = codec.load(options.pop("codec", DEFAULT_MODEL))
    file.write(writer.encode(image, **options))


Image.register_open(FORMAT, ZooImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".zoo")
