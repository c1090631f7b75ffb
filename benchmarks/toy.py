"""The paper's toy in two dimensions: which codes move when they alone, W alone, or both are trained on fixed tokens.

    python -m benchmarks.toy

Writes benchmarks/results/toy.json, which `python -m benchmarks.results` draws: the codes' places over the steps for VQ
(disjoint optimisation: a code's gradient is its own), SimVQ (joint: all share W), and SimVQ with a trained basis.
"""

import jax
import numpy as np
import optax

from benchmarks import timing
from simvq_jax import cli
from simvq_jax.quantize import VQ, SimVQ

OUT = "benchmarks/results/toy.json"
CODES, TOKENS, STEPS, KEPT = 60, 300, 400, (0, 10, 25, 50, 100, 200, 400)
CENTRE, SPREAD, RATE = (3.0, 3.0), 0.4, 0.1
MODULES = {
    "codes trained (VQ)": VQ(CODES, 2, codebook_init="normal"),
    "W trained (SimVQ)": SimVQ(CODES, 2),
    "codes and W trained": SimVQ(CODES, 2, trainable_basis=True),
}


def places(module, tokens) -> dict:
    """The codes at the steps kept: float (kept, CODES, 2), and how many are chosen at each. Plain gradient descent."""
    variables = module.init(jax.random.key(0), tokens)
    optimizer = optax.sgd(RATE)
    params = variables["params"]
    state = optimizer.init(params)

    @jax.jit
    def advance(params, state):
        loss = lambda params: module.apply({**variables, "params": params}, tokens).losses["codebook"]  # noqa: E731
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    codes, used = [], []
    for step in range(STEPS + 1):
        if step in KEPT:
            now = {**variables, "params": params}
            codes.append(np.round(module.apply(now, method="codebook"), 3).tolist())
            used.append(len(np.unique(module.apply(now, tokens).indices)))
        params, state = advance(params, state)
    return {"codes": codes, "used": used}


def main() -> None:
    tokens = np.random.default_rng(0).normal(CENTRE, SPREAD, (TOKENS, 2)).astype(np.float32)
    result = {name: places(module, tokens) for name, module in MODULES.items()}
    shared = {"steps": KEPT, "rate": RATE, "tokens": np.round(tokens, 3).tolist()}
    timing.write_json(OUT, {**timing.provenance(("flax", "optax")), **shared, "methods": result})
    for name, found in result.items():
        print(f"{name}: {found['used'][-1]} of {CODES} codes in use at the end, {found['used'][0]} at the start")


if __name__ == "__main__":
    cli.run_main(main, {}, {})
