"""Raster pictures for reports: data URIs, grids, and a projection of tokens and codes."""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

TOKEN, USED, DEAD = (86, 134, 196), (230, 120, 20), (172, 62, 150)  # seen on light and dark grounds
_WIDTH, _HEIGHT = 1200, 800


def png_data_uri(array: np.ndarray) -> str:
    """`data:image/png;base64,...` of a uint8 picture (h, w), (h, w, 3) or (h, w, 4)."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_grid(rows: Sequence[Sequence[np.ndarray] | np.ndarray], gap: int = 2) -> np.ndarray:
    """Pictures (h, w, 3) uint8 laid out in rows with transparent gaps of `gap` pixels -> (H, W, 4) uint8."""
    height, width = (max(picture.shape[axis] for row in rows for picture in row) for axis in (0, 1))
    columns = max(len(row) for row in rows)
    size = (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 4)
    grid = np.zeros(size, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            cell = grid[top : top + picture.shape[0], left : left + picture.shape[1]]
            cell[..., :3], cell[..., 3] = picture, 255
    return grid


def project(tokens: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Tokens (m, d) and codes (K, d) on the tokens' first two principal components.

    Returns (m, 2), (K, 2) and the share of the tokens' variance the plane carries. Tokens that are not
    finite are left out; a single dimension is drawn on a line. The signs of the components are fixed.
    """
    tokens = tokens[np.isfinite(tokens).all(axis=1)].astype(np.float64)
    mean = tokens.mean(axis=0) if len(tokens) else np.zeros(codes.shape[1])
    centred = tokens - mean
    variances, components = np.linalg.eigh(centred.T @ centred / max(len(tokens), 1))
    plane = components[:, ::-1][:, :2]
    largest = np.abs(plane).argmax(axis=0)
    plane = plane * np.sign(plane[largest, np.arange(plane.shape[1])])
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    total = float(variances.sum())
    share = float(variances[::-1][:2].sum()) / total if total > 0 else 0.0
    return centred @ plane, (codes.astype(np.float64) - mean) @ plane, share


def scatter_png(codes_xy: np.ndarray, tokens_xy: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Density picture of tokens, dead codes and used codes, in that order -> (h, w, 4) uint8.

    `codes_xy`: (K, 2); `tokens_xy`: (m, 2); `used`: (K,) bool. Both axes have one scale. The view holds all
    but the outermost 0.05% of points at each side; those lie on its border, and the ground is transparent.
    """
    place = _placer(np.concatenate([codes_xy, tokens_xy]))
    color, alpha = np.zeros((_HEIGHT, _WIDTH, 3)), np.zeros((_HEIGHT, _WIDTH, 1))
    layers = [
        (tokens_xy, TOKEN, 3.2, _strength(len(tokens_xy))),
        (codes_xy[~used], DEAD, 3.2, _strength(int((~used).sum()))),
        (codes_xy[used], USED, 2.8, _strength(int(used.sum()))),
    ]
    for points, rgb, radius, strength in layers:
        cover = 1 - np.exp(-strength * _density(place(points), radius))[..., None]
        color = color * (1 - cover) + np.array(rgb, np.float64) * cover
        alpha = alpha * (1 - cover) + cover
    straight = np.where(alpha > 0, color / np.maximum(alpha, 1e-9), 0)
    return np.concatenate([straight, 255 * alpha], axis=-1).round().astype(np.uint8)


def _strength(count: int) -> float:
    """Opacity of one point: strong while points are few, so that they show; weak where they would merge."""
    return float(np.clip(40 / np.sqrt(max(count, 1)), 0.12, 1.6))


def _placer(points: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The function from plane coordinates (n, 2) to pixels (n, 2), shaped by where `points` lie."""
    points = points if len(points) else np.zeros((1, 2))
    low, high = np.percentile(points, [0.05, 99.95], axis=0)
    center, size = (low + high) / 2, np.array([_WIDTH, _HEIGHT])
    scale = 0.94 * np.min(size / np.maximum(high - low, 1e-9))
    border = np.array([6, 6])

    def place(xy: np.ndarray) -> np.ndarray:
        return np.clip((xy - center) * scale * np.array([1, -1]) + size / 2, border, size - border - 1)

    return place


def _density(pixels: np.ndarray, radius: float) -> np.ndarray:
    """How many discs with a soft edge cover each pixel: (n, 2) centres -> (h, w)."""
    at = pixels.round().astype(np.int64)
    hits = np.bincount(at[:, 1] * _WIDTH + at[:, 0], minlength=_HEIGHT * _WIDTH).reshape(_HEIGHT, _WIDTH)
    density = np.zeros((_HEIGHT, _WIDTH))
    reach = int(radius + 1)
    for dx in range(-reach, reach + 1):
        for dy in range(-reach, reach + 1):
            weight = float(np.clip(radius + 0.5 - np.hypot(dx, dy), 0, 1))
            if weight > 0:  # nothing wraps around: the centres keep clear of the border
                density += weight * np.roll(hits, (dy, dx), axis=(0, 1))
    return density
