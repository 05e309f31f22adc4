"""A picture for benchmarks that need one of a certain size and no file at hand.

Waves in many directions, with an amplitude that falls as one over the frequency, as it does in photographs.
It holds no noise and no random numbers: the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np

_OCTAVES = 8
_WAVES_PER_OCTAVE = 3


def picture(width: int, height: int) -> np.ndarray:
    """A smooth colour picture, (height, width, 3) uint8."""
    rows, columns = np.arange(height) / max(width, height), np.arange(width) / max(width, height)
    planes = [_waves(rows, columns, channel) for channel in range(3)]
    return np.stack(planes, axis=-1)


def _waves(rows: np.ndarray, columns: np.ndarray, channel: int) -> np.ndarray:
    """One plane, (H, W) uint8.

    cos(a + b) = cos a cos b - sin a sin b turns the sum of plane waves into one product of matrices.
    """
    number = np.arange(_OCTAVES * _WAVES_PER_OCTAVE)
    frequency = 2 * math.pi * 2.0 ** (number / _WAVES_PER_OCTAVE)
    direction = 2.4 * number  # the golden angle spreads them evenly
    phase = 1.7 * number + 0.3 * channel
    across = np.outer(columns, frequency * np.cos(direction))
    down = np.outer(rows, frequency * np.sin(direction)) + phase
    amplitude = 60 * frequency[0] / frequency
    left = np.concatenate([np.cos(down) * amplitude, -np.sin(down) * amplitude], axis=1, dtype=np.float32)
    right = np.concatenate([np.cos(across), np.sin(across)], axis=1, dtype=np.float32)
    plane = left @ right.T
    return np.clip(plane + 128, 0, 255).round().astype(np.uint8)
