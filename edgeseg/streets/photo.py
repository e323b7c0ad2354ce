"""The lens and the sensor: vignette, exposure, colour cast, contrast, blur, noise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from edgeseg.streets.weather import Camera


def develop(image: np.ndarray, camera: Camera, seed: int) -> np.ndarray:
    """(H, W, 3) float32 light -> (H, W, 3) uint8 RGB as the camera gives it."""
    height, width, _ = image.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    falloff = (1 - camera.vignette * 0.5 * (x * x + y * y))[..., None]
    gain = np.clip(camera.exposure / max(float(image.mean()), 0.02), 0.6, 2.4)
    light = image * (falloff * (np.array(camera.cast, np.float32) * np.float32(gain)))
    light = np.maximum(light, 0)
    light = np.where(light > 0.8, 0.8 + 0.2 * np.tanh((light - 0.8) / 0.2), light)
    light = 0.45 + (light - 0.45) * np.float32(camera.contrast)
    shot = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    pixels = Image.fromarray(np.clip(light * 255, 0, 255).astype(np.uint8))
    pixels = pixels.filter(ImageFilter.GaussianBlur(0.35 + camera.blur * height))
    sharp = np.asarray(pixels, np.float32)
    noisy = sharp + shot * (np.float32(camera.noise) * np.sqrt(0.3 + sharp * np.float32(0.7 / 255)))
    photo: np.ndarray = np.clip(noisy + 0.5, 0, 255).astype(np.uint8)
    return photo
