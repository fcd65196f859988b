"""Random changes of a series that keep its label: what another wearer, or another stretch of the series, could have given.

Prompts and texts are made from the changed series, so every number and every statement stays true of what the model sees.
"""

from __future__ import annotations

import numpy as np

__all__ = ["augment_acceleration", "augment_series"]

MAX_ROTATION = np.deg2rad(25.0)


def augment_acceleration(axes: np.ndarray, rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Turn the sensor a little, change the vigour and the pace of the movement, and add sensor noise.

    Args:
        axes: acceleration with gravity, m/s², shape [3, length].
        rng: source of randomness.
        strength: scales every change; 0 changes nothing.

    Returns:
        Array of the same shape.
    """
    length = axes.shape[1]
    mean = axes.mean(axis=1, keepdims=True)
    movement = (axes - mean) * np.exp(rng.normal(0.0, 0.12 * strength))
    if rng.random() < 0.5 * strength:
        span = rng.uniform(0.8, 1.0) * (length - 1)
        start = rng.uniform(0.0, length - 1 - span)
        places = np.linspace(start, start + span, length)
        movement = np.stack([np.interp(places, np.arange(length), row) for row in movement])
    turned = _rotation(rng, angle=np.clip(rng.normal(0.0, np.deg2rad(7.0) * strength), -MAX_ROTATION, MAX_ROTATION)) @ (
        mean + movement
    )
    turned *= np.exp(rng.normal(0.0, 0.01 * strength))
    return turned + rng.normal(0.0, 0.01 * strength * rng.random() + 1e-12, turned.shape)


def augment_series(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror, reverse, rescale and tilt a series, so that captions cannot be guessed from its origin.

    Args:
        values: shape [length].
        rng: source of randomness.
    """
    level, spread = values.mean(), values.std() + 1e-9
    changed = (values - level) / spread
    if rng.random() < 0.3:
        changed = changed[::-1]
    if rng.random() < 0.3:
        changed = -changed
    if rng.random() < 0.3:
        changed = changed + rng.normal(0.0, 1.0) * np.linspace(-1.0, 1.0, len(changed))
    if rng.random() < 0.2:
        changed = changed + rng.normal(0.0, rng.uniform(0.02, 0.3), len(changed))
    if rng.random() < 0.2:
        period = rng.uniform(6.0, len(changed) / 2)
        changed = changed + rng.uniform(0.3, 1.5) * np.sin(2 * np.pi * (np.arange(len(changed)) / period + rng.random()))
    return level + spread * np.exp(rng.normal(0.0, 0.5)) * changed


def _rotation(rng: np.random.Generator, *, angle: float) -> np.ndarray:
    """Return the matrix of a rotation by `angle` radians about a random axis (Rodrigues' formula)."""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
