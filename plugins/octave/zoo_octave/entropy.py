"""Entropy model of two hyper layers, without any context model: six steps, each parallel over all positions.

    w = h_a2(z), z = h_a(y)                                    encoder only
    w_h, w_l  factorised;               p2 = h_s2(w_hat)
    z_l       given p2_l;               z_h given z_l and p2_h;   p = h_s(z_hat)
    y_l       given p_l and p2_l;       y_h given y_l, p2_h and p_h

Within a level LR comes first, so that the cheap latent helps to estimate the expensive one. Source:
arXiv 2209.03353; order, widths and switches are described in the model card.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo_core.entropy.coder import Coder
from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.interfaces import EntropyModel, Shape
from zoo_core.layers.rate import Gain, RateAffine, RateGains
from zoo_octave.estimation import HighEstimator, LowEstimator
from zoo_octave.hyper import hyper_analysis, hyper_synthesis
from zoo_octave.layers import Channels, Pair, split
from zoo_octave.settings import check_all_channels, check_channels, check_kernel


class OctaveEntropy(EntropyModel):
    """Hyper layers z and w, and CRPE at both levels.

    Channels count both resolutions together.

    Args:
        latent: channels M of y. hyper: channels Nz of z and of w. params: channels of p; the paper's is 2M.
        middle: width inside the hyper syntheses. estimate_z, estimate_y: hidden widths of CRPE's networks.
        hyper_kernel: of all strided hyper, upsampling and mixing convolutions.
        cross_kernel, transposed_act, octave: as in the transform.
        crpe_z, crpe_y, hyper_skip: connections; off, they carry zeros.
        extra_hyper: False for the ablation without w, in which z has the factorised prior.
        noise_downstream: the walk goes on with noisy latents in training, as the official code does.
        variable_rate: one set of weights for all levels, by gains.

    Raises:
        UsageError: a setting with which the two resolutions do not fit together.
    """

    def __init__(
        self,
        latent: int,
        hyper: int,
        params: int,
        middle: int,
        estimate_z: tuple[int, int],
        estimate_y: tuple[int, int],
        hyper_kernel: int = 5,
        cross_kernel: int | None = None,
        transposed_act: str = "pre",
        crpe_z: bool = True,
        crpe_y: bool = True,
        hyper_skip: bool = True,
        extra_hyper: bool = True,
        octave: bool = True,
        noise_downstream: bool = True,
        variable_rate: bool = False,
    ):
        super().__init__()
        check_kernel("hyper_kernel", hyper_kernel)
        check_kernel("cross_kernel", hyper_kernel if cross_kernel is None else cross_kernel)
        # Halves of `hyper` and quarters of `params` are means, and as many are scales.
        for name, value, multiple in (
            ("latent", latent, 1),
            ("hyper", hyper, 2),
            ("params", params, 4),
            ("middle", middle, 1),
        ):
            check_channels(name, value, octave, multiple)
        check_all_channels("estimate_z", estimate_z, 2, octave=False)
        check_all_channels("estimate_y", estimate_y, 2, octave=False)
        self.noise_downstream, self.hyper_kernel = noise_downstream, hyper_kernel
        self.downscale = 8 if octave else 4
        y, self.hyper, p = split(latent, octave), split(hyper, octave), split(params, octave)
        z = self.hyper
        self.latent_channels = tuple(c for c in y if c)
        shared = (cross_kernel, octave)
        self.h_a = hyper_analysis(latent, hyper, hyper_kernel, 2, *shared)
        self.h_s = hyper_synthesis(
            hyper, middle, params, hyper_kernel, 2, cross_kernel, transposed_act, octave
        )
        self.h_a2: nn.Module | None = None
        self.h_s2: nn.Module | None = None
        self.high_z: HighEstimator | None = None
        if extra_hyper:
            self.h_a2 = hyper_analysis(hyper, hyper, 3, 1, *shared)
            self.h_s2 = hyper_synthesis(hyper, middle, 2 * hyper, 3, 1, cross_kernel, transposed_act, octave)
            self.high_z = HighEstimator(z.low, 2 * z.high, 0, z.high, estimate_z, hyper_kernel, crpe_z)
        skip = z if extra_hyper else Channels(0)
        self.low_y = LowEstimator(p.low // 2, skip.low, y.low, hyper_kernel, hyper_skip) if octave else None
        self.high_y = HighEstimator(
            y.low, p.high, skip.high, y.high, estimate_y, hyper_kernel, crpe_y, hyper_skip
        )
        self.prior_h = FactorizedPrior(z.high)
        self.prior_l = FactorizedPrior(z.low) if octave else None
        self._rates(y, z, p, variable_rate)

    def _rates(self, y: Channels, z: Channels, p: Channels, variable: bool) -> None:
        """Gains of every coded latent, and the level's modulation of p."""
        self.gains = nn.ModuleDict()
        self.rate_h: RateAffine | None = None
        self.rate_l: RateAffine | None = None
        if not variable:
            return
        for level, channels in (("y", y), ("z", z), ("w", z)):
            if level == "w" and self.h_a2 is None:
                continue
            self.gains[f"{level}_h"] = RateGains(channels.high)
            if channels.low:
                self.gains[f"{level}_l"] = RateGains(channels.low)
        self.rate_h = RateAffine(p.high)
        self.rate_l = RateAffine(p.low) if p.low else None

    def update(self) -> None:
        top = "z" if self.h_a2 is None else "w"
        self.prior_h.update(self._gains(f"{top}_h"))
        if self.prior_l is not None:
            self.prior_l.update(self._gains(f"{top}_l"))

    def code(
        self,
        coder: Coder,
        latents: tuple[Tensor, ...] | None,
        shapes: tuple[Shape, ...],
        level: Tensor | None,
    ) -> tuple[Tensor, ...]:
        y = None if latents is None else Pair(*latents)
        z = None if y is None else self.h_a(y)
        z_hat, upper = self._code_hyper(coder, z, shapes, level)
        p = self._modulated(self.h_s(z_hat), level)
        y_l_hat = None
        if self.low_y is not None:
            mean, scale = self.low_y(p.low, upper and upper.low)
            y_l_hat = coder.gaussian("y_l", y and y.low, mean, scale, self._gain("y_l", level))
        mean, scale = self.high_y(p.high, y_l_hat, upper and upper.high)
        y_h_hat = coder.gaussian("y_h", y and y.high, mean, scale, self._gain("y_h", level))
        return (y_h_hat,) if y_l_hat is None else (y_h_hat, y_l_hat)

    def _code_hyper(
        self, coder: Coder, z: Pair | None, shapes: tuple[Shape, ...], level: Tensor | None
    ) -> tuple[Pair, Pair | None]:
        """z_hat and p2; None for p2 without the second hyper layer."""
        if self.h_a2 is None or self.h_s2 is None or self.high_z is None:
            return self._code_factorized(coder, "z", z, shapes, level), None
        w_hat = self._code_factorized(coder, "w", None if z is None else self.h_a2(z), shapes, level)
        p2 = self.h_s2(w_hat)
        z_l_hat = None
        if p2.low is not None:
            mean, scale = p2.low.chunk(2, 1)
            z_l_hat = coder.gaussian("z_l", z and z.low, mean, scale, self._gain("z_l", level))
        mean, scale = self.high_z(p2.high, z_l_hat)
        z_h_hat = coder.gaussian("z_h", z and z.high, mean, scale, self._gain("z_h", level))
        return Pair(z_h_hat, z_l_hat), p2

    def _code_factorized(
        self, coder: Coder, name: str, latent: Pair | None, shapes: tuple[Shape, ...], level: Tensor | None
    ) -> Pair:
        """The topmost latent, (Nz/2, H/64, W/64) and (Nz/2, H/128, W/128), by its learned densities."""
        coded: list[Tensor] = []
        for i, prior in enumerate((self.prior_h, self.prior_l)):
            if prior is None:
                continue
            step = f"{name}_{'hl'[i]}"
            shape = (prior.channels, shapes[i][1] // 4, shapes[i][2] // 4)
            part = None if latent is None else latent[i]
            coded.append(coder.factorized(step, part, prior, shape, self._gain(step, level), level))
        return Pair(*coded)

    def _gains(self, step: str) -> RateGains | None:
        gains = self.gains[step] if step in self.gains else None  # noqa: SIM401 (a ModuleDict has no get)
        assert gains is None or isinstance(gains, RateGains)
        return gains

    def _gain(self, step: str, level: Tensor | None) -> Gain | None:
        gains = self._gains(step)
        return None if gains is None else gains(level)

    def _modulated(self, p: Pair, level: Tensor | None) -> Pair:
        if self.rate_h is None:
            return p
        return Pair(self.rate_h(p.high, level), self.rate_l(p.low, level) if self.rate_l else None)
