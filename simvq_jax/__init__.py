"""SimVQ in JAX: quantizers, tokenizers, exact nearest-code search.

Public names load on first use, so that `import simvq_jax` brings no data loader or checkpoint reader with it.
"""

import importlib
from typing import Any

_HOMES: dict[str, str] = {
    **dict.fromkeys(
        ("SimVQ", "VQ", "EMAVQ", "FactorizedVQ", "MomentVQ", "FSQ", "LFQ", "ResidualQuantizer", "ProductQuantizer"),
        "simvq_jax.quantize",
    ),
    "nearest_code": "simvq_jax.search",
    "TokenSource": "simvq_jax.data.tokens",
    **dict.fromkeys(("load", "Tokenizer", "ImageTokenizer", "SoundTokenizer"), "simvq_jax.api"),
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"simvq_jax has no public name {name!r}; it has {', '.join(__all__)}.")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
