"""Max pooling that remembers where the maximum was, and unpooling, in operators of every engine.

ONNX has MaxUnpool and MaxPool with indices, which OpenVINO and TensorRT do not take. Here the
choice of a window is three comparisons of its four pixels, and unpooling is their products with the
values, interleaved by reshaping: slices, maxima, comparisons and products only.
"""

from __future__ import annotations

import torch
from torch.nn import functional

Choice = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of 2x2 windows, as 1 or 0: the maximum is in the upper row; it is on the left, if it is in the
upper row; it is on the left, if it is in the lower row."""


def choose(x: torch.Tensor) -> Choice:
    """(N, C, 2 h, 2 w) -> where each window's maximum is; of equal ones the first, row by row."""
    upper, lower = x[:, :, ::2], x[:, :, 1::2]
    ul, ur = upper[..., ::2], upper[..., 1::2]
    ll, lr = lower[..., ::2], lower[..., 1::2]
    above = torch.maximum(ul, ur) >= torch.maximum(ll, lr)
    return above.to(x.dtype), (ul >= ur).to(x.dtype), (ll >= lr).to(x.dtype)


def pool(x: torch.Tensor) -> torch.Tensor:
    """(N, C, 2 h, 2 w) -> (N, C, h, w): the maximum of each window."""
    return functional.max_pool2d(x, 2)


def unpool(values: torch.Tensor, choice: Choice) -> torch.Tensor:
    """(N, C, h, w) -> (N, C, 2 h, 2 w): each value where its window's maximum was, zeros around.

    The same as torch's max_unpool2d.
    """
    above, upper_left, lower_left = choice
    upper = values * above
    lower = values - upper
    ul, ll = upper * upper_left, lower * lower_left
    frames, channels, height, width = (int(n) for n in values.shape)
    rows = (_side_by_side(ul, upper - ul), _side_by_side(ll, lower - ll))
    stacked = torch.cat([row[:, :, :, None] for row in rows], 3)
    return stacked.reshape(frames, channels, 2 * height, 2 * width)


def _side_by_side(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Twice (N, C, h, w) -> (N, C, h, 2 w), pixels in turns."""
    frames, channels, height, width = (int(n) for n in left.shape)
    stacked = torch.cat([left[..., None], right[..., None]], 4)
    return stacked.reshape(frames, channels, height, 2 * width)
