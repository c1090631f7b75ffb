"""What every quantizer shares: the contract, the result and the statistics of use.

Arrays: z: (..., d) tokens, indices: int32 (...), codebook: (K, d), mask: bool (...), True = count.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.search import check_axes

USAGE_WINDOW = 262_144  # tokens over which training utilization and perplexity are stated
LEAST_USAGE = 4  # tokens a code over which usage is counted, at least: of fewer, even use looks uneven by chance
NEVER = 2**30  # age of a code that was never selected; those of others stop before it


@flax.struct.dataclass
class Quantized:
    """Result of a quantizer.

    z_q: (..., d) the code itself, with a gradient that passes to z; indices: int32 (...);
    losses: {"commitment": (), "codebook": ()} unweighted, float32; loss: () their sum with the module's weights.
    """

    z_q: jax.Array
    indices: jax.Array
    losses: dict[str, jax.Array]
    loss: jax.Array


class Quantizer(nn.Module):
    """Base of all quantizers: the contract, and the statistics of use.

    A subclass has the attributes `codebook_size` (K), `dim` (d of the tokens) and `dtype` (of z_q; None keeps that of
    z), calls `make_stats` in `setup`, and defines
        __call__(z, mask=None, train=False) -> Quantized    z: (..., d); mask: bool (...) or None, True = count
        codebook() -> (K, d) float32
        lookup(indices) -> (..., d) float32, the values that the forward pass uses
    With `train=True` the statistics advance (make `codebook_stats` mutable). Under `jit` they are of all devices'
    tokens; in a `pmap` or `shard_map` of your own, of the device's, and so are codes and rows that follow tokens there.
    Indices given to `lookup` must lie in [0, K): it cannot look at them, and others give other codes.

    Collections: `codebook_stats` holds what a training step changes: `age` int32 (K,), tokens seen since the code
    was last selected, and `usage` float32 (K,), selections with exponential forgetting over USAGE_WINDOW tokens, or
    over LEAST_USAGE a code where those are more (K > 65,536).
    """

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each codebook: of one, or of a compound quantizer's stages."""
        return (self.codebook_size,)

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Of the indices of one token: () for one codebook."""
        return ()

    @property
    def projects(self) -> bool:
        """Whether layers of its own, which z_q's gradient trains, lie between the tokens and the codes."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether some parts of a token project and others do not."""
        return False

    @property
    def start_tokens(self) -> int:
        """Tokens that `init` should be given, where it looks at their values; 0 = it does not."""
        return 0

    @property
    def starts_at_tokens(self) -> bool:
        """Whether `init` puts codes, or rows of a basis, where tokens are, and does not look at their moments alone."""
        return False

    def check_fields(self):
        for name in ("codebook_size", "dim"):
            size = getattr(self, name)
            if not isinstance(size, int | np.integer):
                raise ValueError(f"{name} is {size!r} but must be a whole number.")
            if size < 1:
                raise ValueError(f"{name} is {size} but must be at least 1.")
        check_dtype(self.dtype)

    def make_stats(self):
        """Declares the statistics, unless nobody may change them: plain inference needs none."""
        if not self.is_mutable_collection("codebook_stats"):
            return
        shape = (self.codebook_size,)
        self.age = self.variable("codebook_stats", "age", lambda: jnp.full(shape, NEVER, jnp.int32))
        self.usage = self.variable("codebook_stats", "usage", lambda: jnp.zeros(shape, jnp.float32))

    def weights_of(self, z, mask):
        """1 where a token counts, 0 elsewhere: float32 (...).

        Raises ValueError if z is not of floats, its last axis is not `dim`, the mask's shape is not that of the tokens,
        or z is split over mesh axes of type Explicit.
        """
        check_axes(z)
        if not jnp.issubdtype(z.dtype, jnp.floating):
            raise ValueError(f"z is {z.dtype} but must be floats, for z_q has its type: cast it to float32.")
        if z.shape[-1:] != (self.dim,):
            raise ValueError(f"z has shape {z.shape} but must be (..., {self.dim}), the last axis being dim.")
        if mask is None:
            return jnp.ones(z.shape[:-1], jnp.float32)
        if mask.shape != z.shape[:-1]:
            raise ValueError(f"mask has shape {mask.shape} but the tokens have {z.shape[:-1]}: make them equal.")
        return mask.astype(jnp.float32)

    def checked_indices(self, indices) -> jax.Array:
        """Them as an array. Raises ValueError unless they are whole numbers: floats would be cut, and truth values
        taken for a mask."""
        indices = jnp.asarray(indices)
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise ValueError(f"indices are {indices.dtype} but must be whole numbers: cast them to int32.")
        return indices

    def key_to_draw(self):
        """A key of the stream "quantizer", or where it is not given of "params". Raises ValueError without either."""
        if not self.has_rng("quantizer") and not self.has_rng("params"):
            raise ValueError('train=True draws tokens and codes at random: pass rngs={"quantizer": key} to apply.')
        return self.make_rng("quantizer")

    def advance_stats(self, counts, train: bool):
        """Notes in training which codes were selected. counts: (K,)."""
        if not train or self.is_initializing():
            return
        if not self.is_mutable_collection("codebook_stats"):
            raise ValueError("train=True advances codebook_stats: pass mutable=['codebook_stats'] to apply.")
        total = jnp.sum(counts)
        older = jnp.minimum(self.age.value + total.astype(jnp.int32), NEVER - 1)
        older = jnp.where(self.age.value == NEVER, NEVER, older)
        self.age.value = jnp.where(counts > 0, 0, older)
        window = max(USAGE_WINDOW, LEAST_USAGE * self.codebook_size)
        self.usage.value = jnp.exp(-total / window) * self.usage.value + counts


def check_dtype(dtype) -> None:
    """Raises ValueError unless z_q may be of that type."""
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {jnp.dtype(dtype).name} but must be one of floats, or None for that of z.")


def counted_tokens(z, mask):
    """float32 tokens, 0 where they do not count: padding may hold anything, and 0 x NaN is NaN."""
    tokens = jnp.asarray(z, jnp.float32)
    return tokens if mask is None else jnp.where(mask[..., None], tokens, 0.0)
