"""Pictures for tests: made from a seed, smooth and textured like photographs, of any size."""

from __future__ import annotations

import numpy as np


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3): waves of several sizes, an edge, and a little noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    planes = []
    for _ in range(3):
        plane = np.full((height, width), random.uniform(80, 170))
        for _ in range(4):
            fx, fy, phase = random.uniform(-0.15, 0.15), random.uniform(-0.15, 0.15), random.uniform(0, 6.3)
            plane += random.uniform(5, 25) * np.sin(fx * x + fy * y + phase)
        plane += 30 * (x + 2 * y > random.uniform(0, width + 2 * height))
        planes.append(plane + random.normal(0, 3, plane.shape))
    return np.clip(np.rint(np.stack(planes, 2)), 0, 255).astype(np.uint8)
