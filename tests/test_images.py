"""Pictures in and out: every mode exact, converted or refused; metadata byte for byte; alpha without loss."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import ExifTags, Image, ImageCms

from zoo_core import alpha, constants, container, images
from zoo_core.errors import CorruptFileError, ImageError
from zoo_core.images import Picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
REFUSED = ("1", "I;16", "I;16B", "I", "F", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa", "RGBX")


def noise(height: int, width: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(H, W) for one channel, else (H, W, C); uint8."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def joined(picture: Picture) -> np.ndarray:
    """Pixels and alpha in one array, as Pillow orders them."""
    return picture.pixels if picture.alpha is None else np.dstack((picture.pixels, picture.alpha))


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(
    width: int, height: int, depth: int, colour: int, samples: bytes, *extra: tuple[bytes, bytes]
) -> bytes:
    """A PNG of any depth and colour type; `samples` are the rows without their filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = len(samples) // height
    raw = b"".join(b"\0" + samples[start : start + row] for start in range(0, len(samples), row))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *extra]
    chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def exif_with(orientation: int) -> bytes:
    """A big-endian EXIF block with a maker note that only survives a byte-for-byte copy."""
    entries = struct.pack(">HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + struct.pack(">I", 0)
    return b"Exif\0\0MM\0*\0\0\0\x08" + entries + b"maker note \xff\0\x80"


# --- modes that are kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (17, 31), (64, 64)])
def test_kept_modes_are_exact(mode: str, size: tuple[int, int]) -> None:
    width, height = size
    original = noise(height, width, CHANNELS[mode])
    image = Image.fromarray(original)
    assert image.mode == mode
    for source in (image, saved(image), saved(image, "TIFF"), original):
        picture = images.read(source)
        assert np.array_equal(joined(picture), original)
        assert picture.size == size and picture.grey == (CHANNELS[mode] < 3)
        assert images.to_pil(picture).mode == mode
        assert np.array_equal(np.asarray(images.to_pil(picture)), original)


def test_pixels_and_alpha_can_be_written_to() -> None:
    """torch warns about arrays that cannot, and a picture must not change with the image it came from."""
    for source in (Image.fromarray(noise(4, 5, 4)), saved(Image.fromarray(noise(4, 5, 2)))):
        picture = images.read(source)
        assert picture.pixels.flags.writeable and picture.alpha.flags.writeable
        assert picture.pixels.flags.c_contiguous and picture.alpha.flags.c_contiguous


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_becomes_the_same_rgb(format: str) -> None:
    image = Image.fromarray(noise(20, 30)).convert("P")
    image.putpalette(noise(1, 256 * 3, seed=3).tobytes())
    picture = images.read(saved(image, format))
    assert np.array_equal(joined(picture), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_becomes_rgba() -> None:
    indices = np.array([[0, 1], [2, 3]], np.uint8)
    palette, opacity = noise(4, 3), bytes([0, 77, 255, 128])
    data = png(2, 2, 8, 3, indices.tobytes(), (b"PLTE", palette.tobytes()), (b"tRNS", opacity))
    picture = images.read(data)
    assert np.array_equal(picture.pixels, palette[indices])
    assert np.array_equal(picture.alpha, np.frombuffer(opacity, np.uint8)[indices])


def test_a_palette_of_rgba_and_a_palette_with_alpha() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([1, 2, 3, 4, 5, 6, 7, 8], "RGBA")
    assert joined(images.read(image)).tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]]]
    image = Image.new("PA", (1, 1), (1, 9))
    image.putpalette([1, 2, 3, 4, 5, 6])
    assert joined(images.read(image)).tolist() == [[[4, 5, 6, 9]]]


def test_a_transparent_colour_becomes_alpha() -> None:
    grey = np.array([[7, 8, 7]], np.uint8)
    picture = images.read(png(3, 1, 8, 0, grey.tobytes(), (b"tRNS", struct.pack(">H", 7))))
    assert np.array_equal(picture.pixels, grey) and picture.alpha.tolist() == [[0, 255, 0]]
    rgb = np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)
    picture = images.read(png(2, 1, 8, 2, rgb.tobytes(), (b"tRNS", struct.pack(">HHH", 1, 2, 3))))
    assert np.array_equal(picture.pixels, rgb) and picture.alpha.tolist() == [[0, 255]]


# --- modes that must be converted -------------------------------------------------------------------


@pytest.mark.parametrize("mode", REFUSED)
def test_other_modes_are_refused_with_the_way_out(mode: str) -> None:
    with pytest.raises(ImageError, match=f"mode {mode}[, ].*convert=True.*--convert") as caught:
        images.read(Image.new(mode, (3, 2)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", REFUSED)
def test_other_modes_can_be_converted(mode: str) -> None:
    picture = images.read(Image.new(mode, (3, 2)), convert=True)
    assert picture.size == (3, 2)
    assert (picture.alpha is not None) == (mode in ("La", "RGBa"))
    assert picture.grey == (mode in ("1", "I;16", "I;16B", "I", "F", "La"))


def test_conversions_of_8_bit_modes() -> None:
    def converted(image: Image.Image) -> list:
        return joined(images.read(image, convert=True)).tolist()

    assert converted(Image.new("1", (1, 1), 1)) == [[255]]
    assert converted(Image.new("CMYK", (1, 1), (0, 255, 255, 0))) == [[[255, 0, 0]]]
    assert converted(Image.new("CMYK", (1, 1), (0, 0, 0, 255))) == [[[0, 0, 0]]]
    assert converted(Image.new("YCbCr", (1, 1), (90, 128, 128))) == [[[90, 90, 90]]]
    assert converted(Image.new("HSV", (1, 1), (0, 255, 200))) == [[[200, 0, 0]]]
    assert np.abs(np.subtract(converted(Image.new("LAB", (1, 1), (255, 128, 128))), 255)).max() <= 1
    assert converted(Image.new("RGBa", (1, 1), (50, 0, 25, 128))) == [[[99, 0, 49, 128]]]


def test_16_bit_grey_is_divided_by_257_and_rounded() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)
    for source in (Image.fromarray(values), png(256, 256, 16, 0, values.astype(">u2").tobytes()), values):
        assert np.array_equal(images.read(source, convert=True).pixels, expected)


def test_a_dark_16_bit_picture_stays_dark() -> None:
    """Its values would also fit into 8 bits; the file says what they mean."""
    values = np.full((2, 2), 200, ">u2")
    for data in (png(2, 2, 16, 0, values.tobytes()), b"P5 2 2 65535\n" + values.tobytes()):
        assert images.read(data, convert=True).pixels.tolist() == [[1, 1], [1, 1]]


def test_the_transparent_value_of_16_bit_grey() -> None:
    values = np.array([[256, 257, 514]], ">u2")
    data = png(3, 1, 16, 0, values.tobytes(), (b"tRNS", struct.pack(">H", 257)))
    assert joined(images.read(data, convert=True)).tolist() == [[[1, 255], [1, 0], [2, 255]]]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_noticed_and_loses_the_low_byte(colour: int, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 4, channels), dtype=np.uint16)
    data = png(4, 5, 16, colour, values.astype(">u2").tobytes())
    with pytest.raises(ImageError, match="16 bits a channel.*--convert"):
        images.read(data)
    picture = images.read(data, convert=True)
    high = (values >> 8).astype(np.uint8)
    colours = high[..., [0, 0, 0]] if channels == 2 else high[..., :3]
    assert np.array_equal(picture.pixels, colours)
    assert channels == 3 or np.array_equal(picture.alpha, high[..., -1])


def test_a_deep_ppm_is_noticed_and_a_shallow_one_is_kept() -> None:
    with pytest.raises(ImageError, match="16 bits a channel"):
        images.read(b"P6 1 1 1023\n" + bytes(6))
    assert images.read(b"P6 1 1 1023\n\3\xff\3\xff\0\0", convert=True).pixels.tolist() == [[[255, 255, 0]]]
    assert images.read(b"P6 1 1 255\n\1\2\3").pixels.tolist() == [[[1, 2, 3]]]


def test_16_bits_a_pixel_are_not_16_bits_a_channel() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    bmp = b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + header + struct.pack("<HH", 0x7FFF, 0)
    assert images.read(bmp).pixels.tolist() == [[[255, 255, 255], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 256, 65535], [0, 1, 255]),
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),
    ],
)
def test_modes_i_and_f_by_their_range(values: list[float], expected: list[int]) -> None:
    dtype = np.float32 if isinstance(values[0], float) else np.int32
    image = Image.fromarray(np.array([values], dtype))
    assert image.mode == ("F" if dtype == np.float32 else "I")
    assert images.read(image, convert=True).pixels.tolist() == [expected]


@pytest.mark.parametrize("value", [-1, 65536, -0.5, 65536.5, np.nan, np.inf])
def test_modes_i_and_f_out_of_range(value: float) -> None:
    dtype = np.float32 if isinstance(value, float) else np.int32
    with pytest.raises(ImageError, match="values in .*scale them"):
        images.read(Image.fromarray(np.array([[0, value]], dtype)), convert=True)


# --- metadata ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_kept_byte_for_byte_and_pixels_are_not_rotated(format: str, orientation: int) -> None:
    exif = exif_with(orientation)
    data = saved(Image.fromarray(noise(6, 10, 3)), format, exif=exif)
    picture = images.read(data)
    assert picture.size == (10, 6)
    assert picture.exif.removeprefix(b"Exif\0\0") == exif.removeprefix(b"Exif\0\0")
    again = images.to_pil(picture)
    assert again.getexif()[ExifTags.Base.Orientation] == orientation
    assert images.read(saved(again, "PNG", exif=again.info["exif"])).exif.endswith(exif[6:])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_icc_is_kept_byte_for_byte(format: str, mode: str) -> None:
    image = Image.fromarray(noise(6, 10, CHANNELS[mode]))
    picture = images.read(saved(image, format, icc_profile=SRGB))
    assert picture.icc == SRGB
    again = images.to_pil(picture)
    assert images.read(saved(again, format, icc_profile=again.info["icc_profile"])).icc == SRGB


def test_no_metadata_is_none() -> None:
    picture = images.read(saved(Image.fromarray(noise(6, 10, 3))))
    assert picture.icc is None and picture.exif is None
    assert not {"exif", "icc_profile"} & set(images.to_pil(picture).info)


def test_a_profile_goes_when_its_colours_have_gone() -> None:
    cmyk = SRGB[:16] + b"CMYK" + SRGB[20:]
    assert images.read(saved(Image.new("CMYK", (8, 8)), "JPEG", icc_profile=cmyk), convert=True).icc is None
    image = Image.new("HSV", (2, 2))
    image.info["icc_profile"] = SRGB
    assert images.read(image, convert=True).icc == SRGB
    palette = Image.new("P", (2, 2))
    palette.info["icc_profile"] = SRGB
    assert images.read(palette).icc == SRGB


def test_tiff_tags_become_exif_and_its_rotation_is_done_by_pillow() -> None:
    """Pillow turns the pixels of a TIFF upright while it loads them, so the orientation must not stay."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    tags[ExifTags.Base.Make] = "maker"
    tags[ExifTags.IFD.Exif] = {ExifTags.Base.ISOSpeedRatings: 100}
    tags[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
    original = noise(6, 10, 3)
    picture = images.read(saved(Image.fromarray(original), "TIFF", exif=tags.tobytes()))
    assert np.array_equal(picture.pixels, np.rot90(original, -1))
    found = images.to_pil(picture).getexif()
    assert found[ExifTags.Base.Make] == "maker"
    assert found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 100
    assert found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert ExifTags.Base.Orientation not in found
    assert ExifTags.Base.ImageWidth not in found and ExifTags.Base.StripOffsets not in found


# --- several frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_are_refused_or_give_their_first_frame(format: str) -> None:
    first, second = (Image.new("RGB", (4, 3), colour) for colour in ("red", "blue"))
    data = saved(
        first, format, save_all=True, append_images=[second], **{"lossless": True} if format == "WEBP" else {}
    )
    with pytest.raises(ImageError, match="has 2 frames.*--convert"):
        images.read(data)
    assert (images.read(data, convert=True).pixels == (255, 0, 0)).all()


def test_the_previews_in_a_phones_jpeg_are_no_frames() -> None:
    first, preview = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (8, 6), "blue")
    data = saved(first, "MPO", save_all=True, append_images=[preview], quality=100)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    picture = images.read(data)
    assert picture.size == (64, 48)
    assert abs(picture.pixels[0, 0].astype(int) - (255, 0, 0)).max() <= 2


# --- arrays and tensors -----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_and_tensors(channels: int) -> None:
    original = noise(5, 7, channels).reshape(5, 7, channels)
    chw = torch.from_numpy(original).permute(2, 0, 1)
    floats = chw / 255
    sources = [original, original / 255, original.astype(np.float32) / 255, original[::-1][::-1]]
    sources += [chw, floats, floats.double(), floats[None], floats.requires_grad_()]
    for source in sources:
        assert np.array_equal(joined(images.read(source)).reshape(original.shape), original)


def test_half_precision_tensors() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        tensor = torch.tensor([[[0, 0.25, 1]]], dtype=dtype)
        assert images.read(tensor).pixels.tolist() == [[0, 64, 255]]


def test_an_array_of_two_axes_is_grey() -> None:
    assert np.array_equal(images.read(noise(5, 7)).pixels, noise(5, 7))
    assert images.read(torch.zeros(5, 7)).size == (7, 5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 3)) - 0.01, r"-0.01\.\.-0.01.*0\.\.1"),
        (np.full((4, 4), 1.5), r"1.5\.\.1.5"),
        (np.full((4, 4), 200.0), r"200\.\.200.*0\.\.255"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), np.inf), "inf"),
        (torch.full((3, 4, 4), 1.001), r"1.001.*bring them to 0\.\.1"),
        (np.zeros((4, 4), np.int64), "holds int64: give uint8"),
        (np.zeros((4, 4), bool), "holds bool"),
        (np.zeros((4, 4), complex), "holds complex128"),
        (np.zeros((4, 4), np.uint16), "16 bits a channel.*convert=True"),
        (np.zeros((3, 40, 50), np.uint8), r"shape \(3, 40, 50\) is no picture: give \(H, W\) or \(H, W, C\)"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((), np.uint8), r"shape \(\)"),
        (torch.zeros(40, 50, 3), r"shape \(40, 50, 3\) is no picture: give \(C, H, W\)"),
        (torch.zeros(2, 3, 4, 4), r"shape \(2, 3, 4, 4\)"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.zeros((4, 0, 3)), "no pixels"),
        (Image.new("RGB", (0, 4)), "no pixels"),
    ],
)
def test_numbers_that_are_no_picture(source: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        images.read(source)


def test_reading_does_not_import_torch() -> None:
    code = "import sys, numpy, zoo_core.images as i; i.read(numpy.zeros((2, 2), 'u1'))"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- sources ----------------------------------------------------------------------------------------


def test_paths_bytes_and_files(tmp_path: Path) -> None:
    original = noise(5, 7, 3)
    data = saved(Image.fromarray(original))
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    ahead = io.BytesIO(b"before" + data)
    ahead.seek(6)
    with open(path, "rb") as file:
        for source in (
            path,
            str(path),
            data,
            bytearray(data),
            memoryview(data),
            io.BytesIO(data),
            file,
            ahead,
        ):
            assert np.array_equal(images.read(source).pixels, original)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    source = tmp_path / "photo.png"
    source.write_bytes(saved(Image.fromarray(noise(5, 7, 3))))
    with subprocess.Popen(["sh", "-c", 'cat "$0" > "$1"', str(source), str(pipe)]):
        assert np.array_equal(images.read(pipe).pixels, noise(5, 7, 3))


def test_the_file_is_closed_again(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(saved(Image.fromarray(noise(5, 7, 3))))
    images.read(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError):
        images.read(path)
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a picture")
    zoo = container.write(
        container.Header("m", "base", bytes(8), 768, 1, 1), {container.Section.SYMBOLS: b""}
    )
    (tmp_path / "photo.zoo").write_bytes(zoo)
    cases = {
        "empty.jpg": "is empty",
        "notes.txt": "is no picture that Pillow can read",
        "photo.zoo": "is a .zoo file already",
        "missing.jpg": "No such file",
        ".": "Is a directory",
    }
    for name, message in cases.items():
        path = tmp_path / name
        with pytest.raises(ImageError, match=message) as caught:
            images.read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unreadable_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match="photo.jpg: Permission denied"):
        images.read("photo.jpg")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "is empty"),
        (io.BytesIO(), "is empty"),
        (io.StringIO("text"), "open as text"),
        (5, "from int"),
        (None, "from NoneType"),
        ("photo\0.jpg", "null"),
    ],
)
def test_sources_that_hold_no_picture(source: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        images.read(source)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_truncated_photo(format: str) -> None:
    """Every cut but the one of unneeded last bytes is an error of ours, and none gives half a picture."""
    data = saved(Image.fromarray(noise(24, 24, 3)), format)
    whole = images.read(data)
    for length in range(0, len(data) - 16, 7):
        with pytest.raises(ImageError):
            images.read(data[:length])
    for length in range(len(data) - 16, len(data)):
        try:
            assert np.array_equal(images.read(data[:length]).pixels, whole.pixels)
        except ImageError:
            continue


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "TGA", "ICO", "PCX"])
def test_damaged_photos_are_read_or_refused(format: str) -> None:
    rng = np.random.default_rng(5)
    data = saved(Image.fromarray(noise(16, 16, 3)), format)
    for _ in range(150):
        damaged = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, min(len(damaged), 200), 3)
        damaged[places] = rng.integers(0, 256, 3)
        try:
            picture = images.read(damaged.tobytes(), convert=True)
        except ImageError:
            continue
        assert picture.pixels.dtype == np.uint8


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "MAX_PIXELS", 100)
    loaded: list[Image.Image] = []
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", loaded.append)
    image = Image.fromarray(noise(11, 10))
    with pytest.raises(ImageError, match="10 x 11 pixels, more than 100: raise ZOO_MAX_PIXELS"):
        images.read(saved(image))
    with pytest.raises(ImageError, match="ZOO_MAX_PIXELS"):
        images.read(noise(11, 10))
    assert not loaded


def test_a_side_beyond_the_limit() -> None:
    with pytest.raises(ImageError, match="a side beyond"):
        images.read(np.zeros((1, container.MAX_DIMENSION + 1), np.uint8))


def test_decompression_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = png(30000, 30000, 8, 0, bytes(30000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**26)
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS"):
        images.read(bomb)
    images.use_own_pixel_limit()
    with pytest.raises(ImageError, match=r"30000 x 30000 pixels, more than .*: raise ZOO_MAX_PIXELS"):
        images.read(bomb)


# --- the alpha plane --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_alpha_is_exact(plane: np.ndarray) -> None:
    size = plane.shape[1], plane.shape[0]
    assert np.array_equal(images.decode_alpha(images.encode_alpha(plane), size), plane)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (300, 200), (1, 16383), (16383, 1)])
def test_alpha_of_noise_and_soft_edges(shape: tuple[int, int]) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    soft = np.clip(np.hypot(y - 100, x - 100) - 60, 0, 255).astype(np.uint8)
    for plane in (noise(*shape), soft):
        data = images.encode_alpha(plane)
        assert np.array_equal(images.decode_alpha(data, shape[::-1]), plane)
        assert len(data) == 1 or data.startswith(b"RIFF")


@pytest.mark.parametrize("shape", [(1, 16384), (20000, 2)])
def test_alpha_beyond_the_sides_of_webp(shape: tuple[int, int]) -> None:
    plane = noise(*shape)
    data = images.encode_alpha(plane)
    assert data.startswith(b"\x89PNG")
    assert np.array_equal(images.decode_alpha(data, shape[::-1]), plane)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_constant_plane_takes_one_byte(value: int) -> None:
    data = images.encode_alpha(np.full((4000, 6000), value, np.uint8))
    assert data == bytes([value])
    assert (images.decode_alpha(data, (3, 2)) == value).all()


def test_alpha_of_another_size_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    webp, tall = images.encode_alpha(noise(20, 30)), images.encode_alpha(noise(20000, 1))
    monkeypatch.setattr(Image, "open", lambda *args, **_: opened.append(args))
    for data in (webp, tall):
        for size in ((20, 30), (31, 20), (30, 21), (16383, 16383)):
            with pytest.raises(CorruptFileError, match="alpha plane"):
                images.decode_alpha(data, size)
    assert not opened


@pytest.mark.parametrize("plane", [noise(20, 30), noise(17000, 1)], ids=["webp", "png"])
def test_damaged_alpha_is_decoded_or_refused(plane: np.ndarray) -> None:
    data, size = images.encode_alpha(plane), plane.shape[::-1]
    with pytest.raises(CorruptFileError):
        images.decode_alpha(b"", size)
    for length in range(2, len(data) - 16, len(data) // 40):
        with pytest.raises(CorruptFileError):
            images.decode_alpha(data[:length], size)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.integers(0, 60)] = rng.integers(0, 256)
        try:
            assert images.decode_alpha(bytes(damaged), size).shape == plane.shape
        except CorruptFileError:
            continue


def test_alpha_in_other_formats_is_refused() -> None:
    plane = Image.fromarray(noise(4, 4))
    wrong = [saved(plane, "TIFF"), saved(plane, "WEBP"), saved(plane.convert("RGBA")), b"ab"]
    wrong.append(saved(Image.fromarray(noise(4, 4).astype(np.uint16))))
    for data in wrong:
        with pytest.raises(CorruptFileError):
            images.decode_alpha(data, (4, 4))
    assert images.decode_alpha is alpha.decode_alpha
