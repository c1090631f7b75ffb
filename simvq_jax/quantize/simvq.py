"""SimVQ: a basis that no gradient changes, under one learned linear layer, so that every update moves every code."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from simvq_jax.quantize import region
from simvq_jax.quantize.affine import Affine, apply_transform
from simvq_jax.quantize.base import Quantized
from simvq_jax.quantize.basis import INITS, draw, draw_from_seed, features, of_tokens, rows_may_restart, rows_near
from simvq_jax.quantize.idle import RestartedCodes, idle_codes
from simvq_jax.quantize.measures import count_codes, mean_and_variance, told_apart
from simvq_jax.search import nearest_allowed_code, take_codes

START_TOKENS = 4096  # enough for their mean and spread
SPREAD_CODES = 4096  # likewise
REGION_CODES = 8192  # out of use, that a step may pull: more would cost as much as the search itself


class SimVQ(RestartedCodes):
    """Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer" (2411.02038).

    The effective codebook is Q = C W + b. C: (K, basis_dim) is drawn once and frozen (collection `codebook`,
    `codebook/basis`), W and b are trained (`params/transform/{kernel,bias}`).

    Contract and fields as in `RestartedCodes`: a code restarts when its row of C is replaced by one that W maps near a
    token (our own addition). With `restart_after` C thus changes in training, and is `codebook_stats/basis`. And:
        basis_dim: columns of C; None means `dim`.
        use_bias: whether b exists.
        hidden: 0 for the paper's linear layer; else the transform is an MLP with one hidden layer of this width,
            Q = gelu(C V + a) W + b (GELU's form by tanh) with V, a in `params/transform_hidden`; the search forms
            K x hidden features.
        basis_init: "normal", N(0, 1/basis_dim), or "uniform" with the same variance; or "tokens", those that `init` is
            given, centred and scaled alike: C then has the shape of their cloud, which W, random at first, turns and
            stretches (our own addition). Give `init` real tokens then, K of them or more if possible. See `of_tokens`
            of basis.py.
        basis_dtype: "float32" or "bfloat16", in which C then is defined: half the memory, and about four fifths
            of the search's time on matrix units.
        basis_seed: None draws C by the key of `init`; a number draws it from that alone, the same on every platform,
            so that C need not be stored: `seeded_basis` draws it, for `{"codebook": {"basis": ...}}`.
        basis_file: a .npy file whose rows, centred and scaled, are C instead: the frozen features under a projector of
            VQGAN-LC (2406.11837). See `features` of basis.py.
        start_scale: None starts W and b as torch.nn.Linear does, as the paper; a number has `init` match them to the
            tokens that it is given: the codes are centred on those, at this multiple of their root mean square
            distance from their mean (centred by b, so only if there is one). Give `init` real tokens then; of tokens
            that are all equal it takes the centre.
        start_centred: False has `start_scale` set the codes' spread alone, W and b keeping torch's proportions: codes
            then start around the origin, wherever the tokens are.
        trainable_basis: put C among the parameters (`params/basis`), the paper's ablation.
        codebook_loss: "token", the paper's mean over tokens, or "region" (see `_region_loss`), which also pulls
            codes that are out of use. In training it needs `rngs={"quantizer": key}`.
        activity_share: a code is out of use if its usage is under this share of the mean over codes.
        region_sources: tokens a step, at most, that codes out of use are pulled to, and codes that are pulled to the
            nearest of them.

    `codebook_stats` also has `spread_ratio` (), how many times as far as the last step's tokens the codes were spread,
    which `optim.limit_spread` keeps in bounds.
    """

    basis_dim: int | None = None
    use_bias: bool = True
    hidden: int = 0
    basis_init: str = "normal"
    basis_dtype: str = "float32"
    basis_seed: int | None = None
    basis_file: str | None = None
    start_scale: float | None = None
    start_centred: bool = True
    trainable_basis: bool = False
    codebook_loss: str = "token"
    activity_share: float = 0.25
    region_sources: int = 512

    def setup(self):
        self.check_fields()
        self._check_basis()
        if self.codebook_loss not in ("token", "region"):
            raise ValueError(f"codebook_loss is {self.codebook_loss!r} but must be 'token' or 'region'.")
        if self.region_sources < 1:
            raise ValueError(f"region_sources is {self.region_sources} but must be at least 1.")
        if not 0 <= self.activity_share < math.inf:
            raise ValueError(f"activity_share is {self.activity_share} but must be at least 0 and finite.")
        if self.trainable_basis:
            self.basis = self.param("basis", lambda key: draw(key, self.basis_shape, self.basis_init))
        else:
            changes = "codebook_stats" if self.restart_after else "codebook"
            self.stored_basis = self.variable(changes, "basis", self._first_basis)
        if self.start_scale is not None and not 0 < self.start_scale < math.inf:
            raise ValueError(f"start_scale is {self.start_scale} but must be above 0 and finite, or left out.")
        if self.hidden < 0:
            raise ValueError(
                f"hidden is {self.hidden} but must be 0, for a linear layer, or the width of a hidden one."
            )
        if self.hidden:
            self.transform_hidden = Affine(self.basis_shape[1], self.hidden)
        self.transform = Affine(self.hidden or self.basis_shape[1], self.dim, self.use_bias)
        self.make_stats()
        if self.is_mutable_collection("codebook_stats"):
            self.spread_ratio = self.variable("codebook_stats", "spread_ratio", lambda: jnp.float32(1))

    @property
    def start_tokens(self) -> int:
        of_rows = self.codebook_size if self.starts_at_tokens else 0
        return max(of_rows, START_TOKENS if self.start_scale is not None else 0)

    @property
    def starts_at_tokens(self) -> bool:
        return self.basis_init == "tokens"

    @property
    def basis_shape(self) -> tuple[int, int]:
        return self.codebook_size, self.dim if self.basis_dim is None else self.basis_dim

    @nn.nowrap
    def seeded_basis(self):
        """C of `basis_seed`: (K, basis_dim) of `basis_dtype`."""
        if self.basis_seed is None:
            raise ValueError("basis_seed is None but must be a number, which the basis is drawn from.")
        if self.basis_init == "tokens":
            self._check_tokens_basis()
        return draw_from_seed(self.basis_seed, self.basis_shape, self.basis_init).astype(self.basis_dtype)

    def _first_basis(self):
        if self.basis_file is not None:
            return features(self.basis_file, self.basis_shape).astype(self.basis_dtype)
        if self.basis_seed is not None:
            return self.seeded_basis()
        init = "normal" if self.basis_init == "tokens" else self.basis_init  # until `quantize` sees the tokens
        return draw(self.make_rng("params"), self.basis_shape, init).astype(self.basis_dtype)

    def _check_basis(self):
        if self.basis_init not in INITS:
            raise ValueError(f"basis_init is {self.basis_init!r} but must be one of {', '.join(INITS)}.")
        if self.basis_dim is not None and self.basis_dim < 1:
            raise ValueError(f"basis_dim is {self.basis_dim} but must be at least 1, or None for that of the tokens.")
        if self.basis_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"basis_dtype is {self.basis_dtype!r} but must be 'float32' or 'bfloat16'.")
        if self.basis_seed is not None and not 0 <= self.basis_seed < 2**32:
            raise ValueError(f"basis_seed is {self.basis_seed} but must lie in [0, 2^32), or be left out.")
        if self.basis_file is not None and (self.trainable_basis or self.basis_seed is not None):
            raise ValueError(
                f"basis_file is {self.basis_file!r} but trainable_basis {self.trainable_basis} and basis_seed"
                f" {self.basis_seed}: features are frozen and not drawn, so leave those at their defaults."
            )
        if self.basis_init == "tokens":
            self._check_tokens_basis()
        drawn = self.basis_seed is None and self.basis_file is None
        may_restart = rows_may_restart(trainable=self.trainable_basis, drawn=drawn, hidden=self.hidden)
        if self.restart_after and not may_restart:
            raise ValueError(
                f"trainable_basis is {self.trainable_basis}, basis_seed {self.basis_seed}, basis_file"
                f" {self.basis_file!r} and hidden {self.hidden}, but restart_after is {self.restart_after}, as in the"
                " recipe: a row that is replaced is in no optimiser, is not what a seed or a file gives, and is found"
                " through a linear layer, so set restart_after to 0, or leave the others at their defaults."
            )
        if self.trainable_basis and (self.basis_dtype != "float32" or self.basis_seed is not None):
            raise ValueError(
                f"trainable_basis has basis_dtype {self.basis_dtype!r} and basis_seed {self.basis_seed} but needs"
                " 'float32' and no seed: it takes steps finer than bfloat16, away from what a seed gives."
            )

    def _check_tokens_basis(self):
        other = self.basis_dim not in (None, self.dim)
        if self.trainable_basis or self.basis_seed is not None or self.basis_file is not None or other:
            raise ValueError(
                f"basis_init is 'tokens' but trainable_basis {self.trainable_basis}, basis_seed {self.basis_seed},"
                f" basis_file {self.basis_file!r}, basis_dim {self.basis_dim}: rows of tokens are frozen, stored and as"
                " wide as those, so leave these at their defaults."
            )

    def quantize(self, tokens, weight, train: bool) -> Quantized:
        if self.is_initializing():
            self._start(tokens.reshape(-1, self.dim), weight.reshape(-1))
        out = super().quantize(tokens, weight, train)
        if train and not self.is_initializing():
            self.spread_ratio.value = jax.lax.stop_gradient(self._spread_ratio(tokens, weight))
            if self.restart_after:
                flat = jax.lax.stop_gradient(tokens).reshape(-1, self.dim)
                self._restart(*self.restarts(flat, out.indices.reshape(-1), weight.reshape(-1)))
        return out

    def _restart(self, codes, tokens):
        """Replaces rows of C, int (n,), so that W maps them near tokens (n, d)."""
        rows = rows_near(tokens, jax.lax.stop_gradient(self.transform.weights())).astype(self.basis_dtype)
        self.stored_basis.value = self.stored_basis.value.at[codes].set(rows, mode="drop")

    def _start(self, tokens, weight):
        """What `init` takes from its tokens: (N, d), weight: (N,), 1 = counts."""
        if self.basis_init == "tokens" and len(tokens):
            rows = of_tokens(self.make_rng("params"), tokens, weight, self.codebook_size)
            self.stored_basis.value = rows.astype(self.basis_dtype)
        if self.start_scale is not None:
            self._match(tokens, weight, self.start_scale)

    def _spread_ratio(self, tokens, weight):
        """The codes' root mean square distance from their mean over the tokens': (). The old one of tokens that are all
        equal. Of many codes about SPREAD_CODES are looked at, from all over the codebook: features have an order."""
        codes = self.take(jnp.arange(0, self.codebook_size, max(self.codebook_size // SPREAD_CODES, 1)))
        of_codes = mean_and_variance(codes, jnp.ones(len(codes), jnp.float32))[1]
        of_tokens = mean_and_variance(tokens, weight)[1]
        apart = told_apart(of_tokens, tokens, weight)
        ratio = jnp.sqrt(of_codes / jnp.where(apart, of_tokens, 1.0))
        return jnp.where(apart, ratio, self.spread_ratio.value)

    def _match(self, tokens, weight, scale: float):
        """Scales and centres the transform as `start_scale` says. tokens: (N, d), weight: (N,), 1 = counts.

        b is the centre itself: what the mean of C adds, which is nearly 0, then shrinks and grows with W. That of a
        hidden layer's features is as large as their spread, so b makes up for it.
        """
        kernel, bias = self.transform.weights()
        centre, variance = mean_and_variance(tokens, weight)
        codes = apply_transform(self.codes()[0], (kernel, None))
        mean, of_codes = mean_and_variance(codes, jnp.ones(len(codes), jnp.float32))
        matchable = told_apart(variance, tokens, weight) & (of_codes > 0)
        factor = jnp.where(matchable, scale * jnp.sqrt(variance / of_codes), 1.0)
        offset = centre - factor * mean if self.hidden else centre
        around_origin = bias is not None and not self.start_centred
        self.transform.start_at(factor * kernel, factor * bias if around_origin else offset)

    def codes(self):
        return self._features(self._rows()), self.transform.weights()

    def take(self, indices):
        return self.transform(self._features(take_codes(self._rows(), indices)).astype(jnp.float32))

    def _rows(self):
        return self.basis if self.trainable_basis else self.stored_basis.value

    def _features(self, rows):
        """What the last, linear layer takes: (..., basis_dim) -> (..., hidden or basis_dim)."""
        return nn.gelu(self.transform_hidden(rows.astype(jnp.float32))) if self.hidden else rows

    def codebook_loss_value(self, tokens, q, indices, weight, counts, train):
        if self.codebook_loss == "region" and train and tokens.size and not self.is_initializing():
            return self._region_loss(tokens, q, indices, weight, counts)
        return super().codebook_loss_value(tokens, q, indices, weight, counts, train)

    def _region_loss(self, tokens, q, indices, weight, counts):
        """Mean over pulls of ||q_k - target||^2 / d (after StableVQ, 2609.26774). There are three:

        A selected code's target is the mean of its tokens. ||q - mean||^2 differs from the mean of ||q - token||^2
        by the tokens' variance, which has no gradient, so weighting each token by 1 / count gives the same gradient
        without forming the K x d means.

        Sampled tokens, and so regions in proportion to their tokens, each lend themselves as target to the nearest
        code out of use, of REGION_CODES of those, drawn anew.

        That leaves alone the codes that no token is nearest to, far from all of them. So codes out of use, as many as
        there are sampled tokens and drawn anew too, have their nearest sampled token as target. A code that is hardly
        used, yet selected in this step, may have all three.
        """
        flat = tokens.reshape(-1, self.dim)
        flat_q, flat_index, flat_weight = q.reshape(flat.shape), indices.reshape(-1), weight.reshape(-1)
        sources, source_weight = region.one_of_each_run(self.key_to_draw(), flat, flat_weight, self.region_sources)
        pulls = (
            self._pull(flat_q, flat, flat_index, flat_weight, counts),
            self._pull_nearest_idle(sources, source_weight),
            self._pull_to_nearest_source(sources, source_weight),
        )
        pulled, targets = (sum(values) for values in zip(*pulls, strict=True))
        return pulled / jnp.maximum(targets, 1).astype(jnp.float32)

    def _pull(self, codes, targets, indices, weight, counts):
        """Sum over selected codes of the mean of ||code - target||^2 / d: (), and how many are selected: ().

        codes, targets: (N, d); indices, weight: (N,); counts: (K,), of the indices by weight.
        """
        share = weight / jnp.maximum(counts[indices], 1.0)
        return jnp.sum(share * jnp.sum((targets - codes) ** 2, axis=-1)) / self.dim, jnp.sum(
            counts > 0, dtype=jnp.int32
        )

    def _pull_nearest_idle(self, sources, weight):
        """Of codes out of use, those that are nearest to sampled tokens, to these."""
        idle, is_idle = self._idle_codes(REGION_CODES)
        # A small codebook is searched where it lies, not gathered.
        rows = self._rows() if self.codebook_size <= REGION_CODES else take_codes(self._rows(), idle)
        nearest, _ = nearest_allowed_code(sources, self._features(rows), is_idle, self.transform.weights())
        weight, nearest = jnp.where(is_idle[nearest], weight, 0.0), idle[nearest]
        counts = count_codes(nearest, weight, self.codebook_size)
        return self._pull(self.lookup(nearest), sources, nearest, weight, counts)

    def _pull_to_nearest_source(self, sources, weight):
        """Some codes out of use, each to the sampled token that is nearest to it."""
        idle, is_idle = self._idle_codes(self.region_sources)
        codes = self.lookup(idle)
        gap = region.nearest_source(codes, sources, weight) - codes
        pulled = is_idle & jnp.any(weight > 0)
        return jnp.sum(jnp.where(pulled, jnp.sum(gap * gap, axis=-1), 0.0)) / self.dim, jnp.sum(pulled, dtype=jnp.int32)

    def _idle_codes(self, size: int):
        """Up to `size` codes out of use, as `idle_codes` draws them."""
        unused = self.usage.value < self.activity_share * jnp.mean(self.usage.value)
        return idle_codes(self.key_to_draw(), unused, size)
