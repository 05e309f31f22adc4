"""Window attention of Swin Transformers, versions 1 and 2, for maps of any size.

A map is cut into windows of `window` x `window` tokens; tokens attend inside their window. In every second
block the windows are shifted by half a window, so that neighbours meet. A map that the windows do not divide
is padded, and padding is never attended to; a dimension with a single window is not shifted.

Only the last windows of each dimension need a mask: the shift wraps around in the last one, and padding lies
in the last two. All others share one position bias, so no mask as large as the map is ever built.

Sources: Liu et al., Swin Transformer (ICCV 2021) and Swin Transformer V2 (CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.precision import full_precision

MASKED = -1e4
"""Added to the logits of pairs that must not meet. Cosine logits span 200, so the usual -100 would leak."""

_MAX_LOG_SCALE = math.log(100.0)


class SwinStage(nn.Module):
    """x + `depth` blocks, every second one shifted: (B, C, H, W) stays.

    The residual Swin block of learned codecs (RSTB, RS2TB): no convolution at its end.

    Args:
        dim: channels C, a multiple of `heads`.
        window: side of a window in tokens.
        mlp_ratio: hidden width of the MLPs over C.
        version: 1 (scaled dot products, learned bias, norm first) or 2 (cosine, log-spaced bias, norm last).
        residual: add x at the end.
        drop_path: probability, block by block, of leaving a block out for a picture in training.
        post_norm_gain: gain of version 2's norms at the start; with 0 every block is the identity.

    Raises:
        UsageError: there is no such version, or the heads do not divide the channels.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        window: int = 8,
        mlp_ratio: float = 4,
        version: int = 2,
        residual: bool = True,
        drop_path: tuple[float, ...] | None = None,
        post_norm_gain: float = 1.0,
    ):
        super().__init__()
        if version not in (1, 2):
            raise UsageError(f"there are no Swin blocks of version {version}: choose 1 or 2")
        kind = SwinBlockV1 if version == 1 else SwinBlockV2
        self.residual = residual
        blocks = [
            kind(dim, heads, window, mlp_ratio, window // 2 * (index % 2), drop)
            for index, drop in zip(range(depth), drop_path or (0.0,) * depth, strict=True)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.apply(_initialise)
        if version == 2:
            for block in blocks:
                nn.init.constant_(block.norm1.weight, post_norm_gain)
                nn.init.constant_(block.norm2.weight, post_norm_gain)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C): free for channels_last maps
        for block in self.blocks:
            tokens = block(tokens)
        out = tokens.permute(0, 3, 1, 2)
        return x + out if self.residual else out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class _SwinBlock(nn.Module):
    """Attention and MLP of one block; the versions differ in where the norms stand."""

    attention: type[WindowAttention]

    def __init__(self, dim: int, heads: int, window: int, mlp_ratio: float, shift: int, drop_path: float):
        super().__init__()
        self.shift = shift
        self.attn = self.attention(dim, heads, window)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.drop_path = drop_path

    def _kept(self, branch: Tensor) -> Tensor:
        """Stochastic depth: a branch is left out for some pictures, and scaled up for the others."""
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        return branch * branch.new_empty(branch.shape[0], 1, 1, 1).bernoulli_(keep) / keep


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of (B, H, W, C) tokens, the windows shifted by `shift`."""

    index: Tensor

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        if dim % heads:
            raise UsageError(f"{heads} heads do not divide {dim} channels")
        self.dim, self.heads, self.window = dim, heads, window
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("index", _relative_index(window), persistent=False)

    def qkv(self, tokens: Tensor) -> Tensor:
        """(..., C) -> queries, keys and values, (..., 3 C)."""
        raise NotImplementedError

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention of (windows, heads, T, C / heads) with `bias` (1, heads, T, T) added to the logits."""
        raise NotImplementedError

    def position_bias(self) -> Tensor:
        """(1, heads, T, T) for the T = window**2 tokens of a window: four dimensions take SDPA's fast path."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, shift: int) -> Tensor:
        height, width = tokens.shape[1:3]
        rows, columns = axis(height, self.window, shift), axis(width, self.window, shift)
        # Padded tokens are masked as keys and cropped as queries: what they hold is never read.
        tokens = F.pad(tokens, (0, 0, 0, columns.padded - width, 0, rows.padded - height))
        if rows.shift or columns.shift:
            tokens = tokens.roll((-rows.shift, -columns.shift), (1, 2))
        out = self._all_windows(tokens, rows, columns)
        if rows.shift or columns.shift:
            out = out.roll((rows.shift, columns.shift), (1, 2))
        return out[:, :height, :width]

    def products(self, tokens: Tensor, shift: int) -> int:
        """Multiplications of queries with keys and of weights with values; padded tokens take part."""
        batch, height, width, dim = tokens.shape
        padded = axis(height, self.window, shift).padded * axis(width, self.window, shift).padded
        return 2 * batch * padded * self.window**2 * dim

    def _all_windows(self, tokens: Tensor, rows: Axis, columns: Axis) -> Tensor:
        """(B, H', W', C) stays; windows with the same mask go together."""
        batch, height, width, dim = tokens.shape
        side = self.window
        grid = tokens.view(batch, height // side, side, width // side, side, dim)
        bias, bands = self.position_bias(), []
        for down, row_mask in rows.groups():
            band = []
            for across, column_mask in columns.groups():
                part = grid[:, down, :, across].transpose(2, 3)  # (B, rows, columns, side, side, C)
                windows = self._windows(part.reshape(-1, side**2, dim), _masked(bias, row_mask, column_mask))
                band.append(windows.view(part.shape).transpose(2, 3))
            bands.append(torch.cat(band, 3))
        return torch.cat(bands, 1).reshape(tokens.shape)

    def _windows(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Attention inside each of (windows, T, C)."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(self.attend(q, k, v, bias).transpose(1, 2).flatten(2))


class WindowAttentionV1(WindowAttention):
    """Scaled dot products with one learned bias per head and offset."""

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__(dim, heads, window)
        self.projections = nn.Linear(dim, 3 * dim)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def qkv(self, tokens: Tensor) -> Tensor:
        return self.projections(tokens)

    def position_bias(self) -> Tensor:
        return self.bias_table[self.index].permute(2, 0, 1)[None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


class WindowAttentionV2(WindowAttention):
    """Cosine attention with a learned temperature, at most 100, and a bias from log-spaced offsets.

    Keys have no bias of their own. The position bias is 16 sigmoid(MLP(offset)).
    """

    offsets: Tensor

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__(dim, heads, window)
        self.projections = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.bias_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.register_buffer("offsets", _log_offsets(window), persistent=False)

    def qkv(self, tokens: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        return F.linear(tokens, self.projections.weight, bias)

    def products(self, tokens: Tensor, shift: int) -> int:
        """Those of every window attention, and of the projections, which are no layer of their own here."""
        attention = super().products(tokens, shift)
        return attention + attention // (2 * self.window**2) * 3 * self.dim

    def position_bias(self) -> Tensor:
        with full_precision(self.offsets):
            return 16 * torch.sigmoid(self.bias_mlp(self.offsets))[self.index].permute(2, 0, 1)[None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        dtype = q.dtype
        with full_precision(q):  # logits reach 116: bfloat16 would round them to steps of 0.5
            scale = self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()
            q = F.normalize(q.to(bias.dtype), dim=-1, eps=1e-12) * scale
            k = F.normalize(k.to(bias.dtype), dim=-1, eps=1e-12)
            return F.scaled_dot_product_attention(q, k, v.to(bias.dtype), attn_mask=bias, scale=1.0).to(dtype)


class SwinBlockV1(_SwinBlock):
    """t + attention(norm t), then t + mlp(norm t): (B, H, W, C) stays."""

    attention = WindowAttentionV1

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._kept(self.attn(self.norm1(tokens), self.shift))
        return tokens + self._kept(self.mlp(self.norm2(tokens)))


class SwinBlockV2(_SwinBlock):
    """t + norm(attention t), then t + norm(mlp t): (B, H, W, C) stays."""

    attention = WindowAttentionV2

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._kept(self.norm1(self.attn(tokens, self.shift)))
        return tokens + self._kept(self.norm2(self.mlp(tokens)))


@dataclass(frozen=True)
class Axis:
    """The windows along one dimension, on the shifted grid.

    Attributes:
        padded: length, a multiple of the window.
        shift: by how much the grid is rolled.
        plain: number of windows, from the first on, in which all tokens may meet.
        masks: for each of the others, which query (first index) may see which key: (window, window), bool.
    """

    padded: int
    shift: int
    plain: int
    masks: tuple[Tensor, ...]

    def groups(self) -> Iterator[tuple[slice, Tensor | None]]:
        """Windows that share a mask, and the mask."""
        if self.plain:
            yield slice(0, self.plain), None
        for index, mask in enumerate(self.masks, self.plain):
            yield slice(index, index + 1), mask


@lru_cache(maxsize=256)
def axis(length: int, window: int, shift: int) -> Axis:
    """The windows of a dimension of `length` tokens."""
    padded = -(-length // window) * window
    shift = shift if padded > window else 0
    place = torch.arange(padded, device="cpu")  # a mask is a constant, also while shapes are counted on meta
    wrapped = place >= padded - shift  # came around from the other end
    valid = (place + shift) % padded < length
    masks = [
        (came[:, None] == came) & real.expand(window, window)
        for came, real in zip(wrapped.split(window), valid.split(window), strict=True)
    ]
    plain = next((index for index, mask in enumerate(masks) if not mask.all()), len(masks))
    return Axis(padded, shift, plain, tuple(masks[plain:]))


def _masked(bias: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """The position bias (1, heads, T, T) with pairs ruled out by the masks of their window's row and column."""
    side = math.isqrt(bias.shape[-1])
    allowed = torch.ones(side, side, side, side, dtype=torch.bool, device="cpu")  # query (row, column), key
    if rows is not None:
        allowed &= rows[:, None, :, None]
    if columns is not None:
        allowed &= columns[None, :, None, :]
    allowed = allowed.reshape(side**2, side**2).to(bias.device)
    return bias.masked_fill(~allowed, MASKED)


def _relative_index(window: int) -> Tensor:
    """Which entry of a (2 window - 1)**2 table belongs to each pair of tokens: (T, T)."""
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # (T, 2): row, column
    offset = place[:, None] - place + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def _log_offsets(window: int) -> Tensor:
    """All (dy, dx) between tokens of a window, log-spaced to at most 1.06: ((2 window - 1)**2, 2)."""
    steps = 8 * torch.arange(1 - window, window, device="cpu") / max(window - 1, 1)
    # Python's logarithms, rounded: those in float32 differ in their last bit from one library to the next, and
    # entropy models rest on these.
    logarithms = torch.tensor([math.log2(x) for x in (1 + steps.abs()).tolist()], device="cpu")
    steps = (steps.sign() * logarithms / 3).to(torch.get_default_device())
    return torch.cartesian_prod(steps, steps)
