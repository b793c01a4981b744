"""Images are read with the right colours, refused in one line, and written atomically and repeatably."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from nst_exp.errors import InputError
from nst_exp.media import image as images
from nst_exp.media.image import Pixels, locate, read_image, sha256_of, to_uint8, write_image

pytestmark = pytest.mark.filterwarnings("error")

WHITE = (255, 255, 255)
RED, GREEN, BLUE, GREY = pictures.QUADRANTS
# Files whose colours differ from the four quadrants, in levels.
EXPECTED = {
    "grey": pictures.GREYS,
    "grey_jpeg": pictures.GREYS,
    "grey_alpha": (0, 85, WHITE, WHITE),
    "rgba": (RED, GREEN, WHITE, WHITE),
    "rgba16": (RED, GREEN, WHITE, WHITE),
    "colour_key": (RED, GREEN, WHITE, GREY),
    "palette_transparent": (RED, GREEN, WHITE, GREY),
    "palette_alphas": (RED, GREEN, WHITE, WHITE),
    "one_bit": (0, 255, 255, 0),
    **dict.fromkeys(("grey16", "grey16_tiff", "grey16_ppm"), (0, 1000 / 257, 33333 / 257, 255)),
    "float": (0, 63.75, 127.5, 255),
    "icc_swapped": (GREEN, RED, BLUE, GREY),
    "icc_linear_grey": (0, 156, 213, 255),  # sRGB encoding of 1/3 and 2/3
    "icc_grey_in_rgb": pictures.GREYS,
}
# Levels: CIELAB in 8 bits is coarse, and a gamma of 2.2 is not quite sRGB's.
TOLERANCES = {"lab": 24, "icc_swapped": 3, "icc_grey_in_rgb": 3, "icc_linear_grey": 1}
REASONS = {
    "missing": "cannot be read: No such file or directory",
    "directory": "cannot be read: it is a directory",
    "empty": "cannot be read: it is empty",
    "text": "cannot be read: not a picture of a known kind (JPEG,",
    "truncated_jpeg": "cannot be read: image file is truncated",
    "float_range": "has float pixels from 0 to 255, must be in [0, 1]",
    "integers32": "signed or 32-bit integer pixels",
    "one_pixel": "is 1x1 px: its short side is 1 px, at least 16 px needed",
    "strip": "is 5x5000 px: at size=96 its short side would be 0 px, at least 16 px needed",
    "bomb": "is 100000x100000 px: 10000 megapixels, at most 200",
    "over_limit": "is 15000x15000 px: 225 megapixels, at most 200",
}


def read(path: Path, *, size: int = pictures.WIDTH, aspect: str = "keep", smallest_side: int = 16) -> Pixels:
    return read_image(path, size=size, aspect=aspect, smallest_side=smallest_side, name="style")


def corner_levels(pixels: Pixels) -> np.ndarray:
    """Levels in the middle of each quadrant, (4, 3)."""
    _, height, width, _ = pixels.shape
    rows, columns = np.meshgrid((height // 4, 3 * height // 4), (width // 4, 3 * width // 4), indexing="ij")
    return pixels[0, rows.ravel(), columns.ravel()] * 255


def tolerance_of(name: str) -> float:
    lossy = name.startswith(("jpeg", "grey_jpeg", "tiff_ycbcr", "cmyk", "exif"))
    return TOLERANCES.get(name, 2 if lossy else 1e-3)


SMALL = [name for name in pictures.READABLE if not name.startswith("sixty")]


@pytest.mark.parametrize("size", [pictures.WIDTH, 48, 150])
@pytest.mark.parametrize("name", SMALL)
def test_colours_are_right_whatever_the_file(name: str, size: int, tmp_path: Path) -> None:
    pixels = read(pictures.make(name, tmp_path), size=size)
    assert pixels.shape == (1, size * 2 // 3, size, 3) and pixels.dtype == np.float32
    assert pixels.min() >= 0 and pixels.max() <= 1 and pixels.flags.c_contiguous
    expected = np.array([np.broadcast_to(np.asarray(colour), 3) for colour in EXPECTED.get(name, pictures.QUADRANTS)])
    np.testing.assert_allclose(corner_levels(pixels), expected, atol=tolerance_of(name))


@pytest.mark.parametrize("name", pictures.REFUSED)
def test_unusable_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = pictures.make(name, tmp_path)
    with pytest.raises(InputError) as refusal:
        read(path)
    message = str(refusal.value)
    assert message.startswith(f"style={str(path)!r} ") and "\n" not in message
    assert REASONS.get(name, "") in message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP"])
def test_no_truncated_file_is_taken_for_a_whole_picture(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pictures.colour_picture().save(buffer, kind)
    content, path = buffer.getvalue(), tmp_path / "cut"
    path.write_bytes(content)
    whole = read(path)
    for length in sorted(
        {*range(0, len(content), max(1, len(content) // 60)), *range(len(content) - 30, len(content))}
    ):
        path.write_bytes(content[:length])
        try:
            np.testing.assert_array_equal(read(path), whole)  # only the end behind the pixels is missing
        except InputError:
            continue
        assert length > len(content) - 5


def test_an_unfinished_jpeg_is_refused_though_its_thumbnail_is_complete(tmp_path: Path) -> None:
    thumbnail, picture = io.BytesIO(), io.BytesIO()
    pictures.colour_picture().save(thumbnail, "JPEG")
    pictures.colour_picture().save(picture, "JPEG", comment=thumbnail.getvalue())
    content = picture.getvalue()
    path = tmp_path / "download.jpg"
    path.write_bytes(content)
    read(path)
    path.write_bytes(content[:-100].ljust(len(content), b"\0"))
    with pytest.raises(InputError, match="truncated"):
        read(path)


def test_no_permission_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pictures.make("png", tmp_path)

    def denied(*_: object, **__: object) -> None:  # root, as in containers, could read a file without permissions
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match=r"png\.png' cannot be read: Permission denied$"):
        read(path)


def test_without_resampling_pixels_are_exact(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0], levels.astype(np.float32) / np.float32(255))


def test_sixteen_bits_of_grey_are_kept(tmp_path: Path) -> None:
    ramp = np.arange(64 * 96, dtype=np.uint16).reshape(64, 96)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    np.testing.assert_allclose(read(tmp_path / "ramp.png")[0, ..., 1], ramp / 65535, atol=1e-7)


@pytest.mark.parametrize(("stored", "shape"), [((96, 64), (48, 48)), ((30, 90), (48, 48))])
def test_stretch_makes_a_square(stored: tuple[int, int], shape: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", stored, RED).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", size=48, aspect="stretch").shape == (1, *shape, 3)


@pytest.mark.parametrize(("stored", "shape"), [((9000, 16), (2, 256)), ((16, 9000), (256, 2)), ((512, 16), (8, 256))])
def test_the_evaluator_reads_pictures_of_any_shape(
    stored: tuple[int, int], shape: tuple[int, int], tmp_path: Path
) -> None:
    """Kind: a picture that a run accepts at its size is refused by the evaluator, at whose size it is too thin."""
    Image.new("RGB", stored, RED).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", size=256, aspect="keep", smallest_side=None, name="style")
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.array([RED], np.float32) / 255, (1, *shape, 3)))


def test_an_unknown_aspect_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="aspect='crop': choose among keep, stretch"):
        read(pictures.make("png", tmp_path), aspect="crop")


def test_a_large_jpeg_shrinks_like_lanczos_alone(tmp_path: Path) -> None:
    blobs = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(blobs).resize((1501, 1003), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as picture:
        reference = np.asarray(picture.resize((120, 80), Image.Resampling.LANCZOS), np.float32)
    difference = read(tmp_path / "a.jpg", size=120)[0] * 255 - reference
    assert np.abs(difference).max() <= 5 and np.abs(difference).mean() < 1


def test_transparent_pixels_do_not_bleed_into_edges(tmp_path: Path) -> None:
    """White beside transparent black stays white everywhere, at any size."""
    levels = np.zeros((96, 96, 4), np.uint8)
    levels[:, :47] = 255
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", size=40).min() > 254 / 255


@pytest.mark.parametrize("name", ["icc_broken", "icc_misfit"])
def test_an_unusable_profile_is_logged(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(pictures.make(name, tmp_path))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "its colour profile is ignored" in caplog.text


def test_pillow_keeps_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    filters = list(warnings.filters)
    read(pictures.make("png", tmp_path))
    with pytest.raises(InputError):
        read(pictures.make("truncated_png", tmp_path))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (10, True)
    assert warnings.filters == filters


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' own peak memory")
@pytest.mark.parametrize(("name", "limit"), [("sixty_megapixels_jpeg", 100), ("sixty_megapixels_png", 350)])
def test_sixty_megapixels_take_modest_memory(name: str, limit: int, tmp_path: Path) -> None:
    """`limit` is in MB, in addition to Python and its imports, in a process of its own."""
    program = (
        "import re, sys; from pathlib import Path; from nst_exp.media.image import read_image\n"
        "status = Path('/proc/self/status')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1]) // 1024\n"
        "before = peak()\n"
        "read_image(Path(sys.argv[1]), size=512, aspect='keep', smallest_side=16, name='content')\n"
        "print(peak() - before, 'jax' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(pictures.make(name, tmp_path))]
    root = str(Path(images.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert int(out[0]) < limit
    assert out[1] == "False"


def test_locate_finds_plain_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pictures.make("png", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(str(path)) == locate("~/png.png") == path


def test_locate_finds_a_file_of_a_package_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gallery" / "art"
    folder.mkdir(parents=True)
    (tmp_path / "gallery" / "__init__.py").write_text("raise RuntimeError('imported')")
    path = pictures.make("png", folder)
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("pkg://gallery/art/png.png") == path
    with pytest.raises(InputError, match=r"'pkg://gallery/art/b\.png': No such file"):
        locate("pkg://gallery/art/b.png")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nowhere/a.jpg", "No such file or directory"),
        ("", "it is a directory"),
        ("/dev/null", "it is not a regular file"),
        ("~no-such-user/a.jpg", "home directory"),
        ("a\0b.jpg", "null"),
        ("x" * 300, "File name too long"),
        ("pkg://no_such_package/a.jpg", "package 'no_such_package' is not installed"),
        ("pkg://numpy/a.jpg", "No such file or directory"),
        ("pkg://numpy/linalg", "it is a directory"),
        ("pkg://numpy", "must be pkg://PACKAGE/inner/path"),
        ("pkg://numpy/../a.jpg", "must be pkg://PACKAGE/inner/path"),
        ("pkg://numpy//etc/passwd", "must be pkg://PACKAGE/inner/path"),
        ("pkg://numpy.linalg/a.jpg", "must be pkg://PACKAGE/inner/path"),
        ("pkg://__main__/a.jpg", "is not installed"),
    ],
)
def test_locate_refuses_and_names_the_address(address: str, reason: str) -> None:
    with pytest.raises(InputError) as refusal:
        locate(address)
    assert str(refusal.value).startswith(f"{address!r}: ") and reason in str(refusal.value)


@pytest.mark.parametrize("batched", [True, False])
def test_what_is_written_is_read_back(batched: bool, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    pixels = levels.astype(np.float32) / 255
    write_image(tmp_path / "a.png", pixels[np.newaxis] if batched else pixels, text={"seed": "1", "ü": "é→"})
    np.testing.assert_array_equal(to_uint8(read(tmp_path / "a.png")), levels)
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert isinstance(picture, PngImagePlugin.PngImageFile)
        assert picture.text == {"seed": "1", "ü": "é→"}
    assert os.listdir(tmp_path) == ["a.png"]


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((1, 20, 30, 3))
    write_image(tmp_path / "a.png", pixels, text={"a": "1", "b": "2"})
    write_image(tmp_path / "b.png", pixels, text={"b": "2", "a": "1"})
    assert sha256_of(tmp_path / "a.png") == sha256_of(tmp_path / "b.png")


def test_levels_are_clipped_and_rounded() -> None:
    row = np.array([-np.inf, -3, 0.499 / 255, 0.501 / 255, 1.4, np.inf])
    assert to_uint8(np.stack([row] * 3, axis=-1)[np.newaxis])[0, :, 2].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("image", [np.full((4, 4, 3), np.nan), np.zeros((4, 4)), np.zeros((2, 4, 4, 3))])
def test_what_is_no_picture_is_not_written(image: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"NaN|shape"):
        write_image(tmp_path / "a.png", image)
    assert not os.listdir(tmp_path)


def test_writing_to_a_wrong_place_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in ("missing/a.png", "file/a.png", "folder.png"):
        with pytest.raises(InputError, match=f"{path}' cannot be written: "):
            write_image(tmp_path / path, np.zeros((4, 4, 3)))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_a_full_disk_leaves_the_old_picture_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3)))
    before = sha256_of(tmp_path / "a.png")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"a\.png' cannot be written: No space left on device$"):
        write_image(tmp_path / "a.png", np.ones((4, 4, 3)))
    assert os.listdir(tmp_path) == ["a.png"] and sha256_of(tmp_path / "a.png") == before


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea")
    with pytest.raises(InputError, match="missing' cannot be read: No such file"):
        sha256_of(tmp_path / "missing")
