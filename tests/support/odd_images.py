"""Images of every color mode as files have them, and the RGB pixels that each stands for."""

import io

import cv2
import numpy as np
from PIL import Image


def saved(image, form, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photograph(width=64, height=48) -> Image.Image:
    """Something smooth, no two corners of which look alike."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - (across + down) / 2], 2).astype(np.uint8))


def decoded(content: bytes) -> tuple[bytes, np.ndarray]:
    """A file that is lossy, and what Pillow alone makes of it."""
    return content, np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def kinds_of_images() -> dict[str, tuple[bytes, np.ndarray]]:
    """{file name: (bytes, the RGB pixels that it stands for)}, made by Pillow."""
    rgb = photograph()
    gray = rgb.convert("L")
    deep = np.asarray(gray).astype(np.uint16) * 257  # 16 bits; pixels above 255 must not all be white
    red = np.array([255, 0, 0], np.uint8)
    holes = np.zeros((48, 64), bool)
    holes[:20, :30] = True
    see_through = rgb.copy()
    see_through.putalpha(Image.fromarray(np.where(holes, 0, 255).astype(np.uint8)))
    on_white = np.where(holes[..., None], 255, np.asarray(rgb))
    palette = Image.fromarray(holes.astype(np.uint8))
    palette.putpalette([*red, 0, 0, 255])
    on_its_side = Image.Exif()
    on_its_side[274] = 6
    cmyk = rgb.convert("CMYK")
    _, deep_color = cv2.imencode(".png", np.asarray(rgb)[..., ::-1].astype(np.uint16) * 257)
    two = gray.point(lambda level: 255 * (level > 100)).convert("1")
    gray_and_alpha = gray.copy()
    gray_and_alpha.putalpha(Image.fromarray(np.where(holes, 0, 255).astype(np.uint8)))
    few = gray.point(lambda level: level // 32 * 32)  # one level of these is see-through
    return {
        "gray.png": (saved(gray, "PNG"), np.asarray(gray.convert("RGB"))),
        "gray16.png": (saved(Image.fromarray(deep), "PNG"), np.asarray(gray.convert("RGB"))),
        "gray16.tif": (saved(Image.fromarray(deep), "TIFF"), np.asarray(gray.convert("RGB"))),
        "gray16.ppm": (saved(Image.fromarray(deep).convert("I"), "PPM"), np.asarray(gray.convert("RGB"))),
        "color16.png": (deep_color.tobytes(), np.asarray(rgb)),
        "two_levels.png": (saved(two, "PNG"), np.asarray(two.convert("RGB"))),
        "gray_alpha.png": (
            saved(gray_and_alpha, "PNG"),
            np.where(holes[..., None], 255, np.asarray(gray.convert("RGB"))),
        ),
        "gray_key.png": (
            saved(few, "PNG", transparency=64),
            np.where(np.asarray(few)[..., None] == 64, 255, np.asarray(few.convert("RGB"))),
        ),
        "cmyk.jpg": decoded(saved(cmyk, "JPEG", quality=95)),
        "gray.jpg": decoded(saved(gray, "JPEG", quality=95)),
        "color.webp": decoded(saved(rgb, "WEBP", lossless=True)),
        "color.bmp": (saved(rgb, "BMP"), np.asarray(rgb)),
        "cmyk.tif": (saved(cmyk, "TIFF"), np.asarray(cmyk.convert("RGB"))),
        "alpha.png": (saved(see_through, "PNG"), on_white),
        "palette.png": (saved(palette, "PNG", transparency=1), np.where(holes[..., None], 255, red)),
        "palette.gif": (saved(palette, "GIF"), np.where(holes[..., None], [0, 0, 255], red)),
        "rotated.png": (saved(rgb, "PNG", exif=on_its_side), np.rot90(np.asarray(rgb), -1)),
        "rotated16.tif": (saved(Image.fromarray(deep), "TIFF", exif=on_its_side), np.rot90(gray.convert("RGB"), -1)),
    }
