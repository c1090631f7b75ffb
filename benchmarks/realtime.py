"""Seconds that encoding and decoding take for a second of speech, ours and the official modules in alternation.

    python -m benchmarks.realtime [--official=CHECKOUT] [--codebook_sizes=1024,65536] [--seconds=10] [--repeats=7] \\
        [--out=benchmarks/results/realtime_cpu.json]

Both are the speech tokenizer of the paper at its full size, from random weights, on one recording of noise, batch 1.
Encoding ends with indices, decoding begins with the codes. The official modules need PyTorch, einops and a checkout of
github.com/youngsheen/SimVQ; without --official ours is timed alone. Below 1 is faster than the sound plays.
Ratios are official / ours: above 1 ours is the faster one.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.flags import numbers
from benchmarks.official_step import import_torch, replace_module
from benchmarks.timing import Contender, OtherLoad, alternate, provenance, ratio, summary, write_json
from simvq_jax import build, cli
from simvq_jax.state import inference_variables

CONFIG = "configs/libritts24k_simvq.py"


def ours(sound: np.ndarray, codebook_size: int) -> dict[str, Contender]:
    """sound: (1, samples)."""
    config = cli.load_config(CONFIG)[1]
    config.dtype, config.quantizer.codebook_size = "float32", codebook_size
    config.discriminator.enabled = False
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    quick = {"xla_backend_optimization_level": 0}
    make = jax.jit(lambda key: build.build_state(config, networks, optimizers, key), compiler_options=quick)
    variables = inference_variables(make(jax.random.key(0)))
    autoencoder = networks.autoencoder
    encode = jax.jit(lambda v, x: autoencoder.apply(v, x, method="encode")[1])
    decode = jax.jit(lambda v, indices: autoencoder.apply(v, indices, method="decode"))
    indices = encode(variables, sound)
    return {
        "encode": Contender(lambda: encode(variables, sound)),
        "decode": Contender(lambda: decode(variables, indices)),
    }


def official(checkout: Path, sound: np.ndarray, codebook_size: int) -> dict[str, Contender]:
    """The checkout's own modules, put together as its model does. Raises ValueError where they are not there."""
    torch: Any = import_torch()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if not (checkout / "taming/modules/diffusionmodules/seanet.py").is_file():
        raise ValueError(f"--official={checkout} holds no SEANet: give a checkout of github.com/youngsheen/SimVQ.")
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    if (
        "torchaudio" not in sys.modules and importlib.util.find_spec("torchaudio") is None
    ):  # mel scales of heads that are not timed
        replace_module("torchaudio.functional.functional", _hz_to_mel=None, _mel_to_hz=None)
        for name in ("torchaudio.functional", "torchaudio"):
            replace_module(name)
    from taming.modules.diffusionmodules.fourierhead import ISTFTHead
    from taming.modules.diffusionmodules.seanet import SEANetEncoder
    from taming.modules.diffusionmodules.vocosbackbone import VocosBackbone
    from taming.modules.vqvae.quantize import SimVQ1D

    encoder = SEANetEncoder(causal=True, dimension=512).eval()
    quantizer = SimVQ1D(n_e=codebook_size, e_dim=512, beta=0.25, legacy=False).eval()
    backbone = VocosBackbone(input_channels=512, dim=768, intermediate_dim=2304, num_layers=12).eval()
    head = ISTFTHead(dim=768, n_fft=1280, hop_length=320, padding="same").eval()
    x = torch.tensor(sound)[:, None]

    @torch.inference_mode()
    def encode():
        return quantizer(encoder(x))[0]

    @torch.inference_mode()
    def decode():
        return head(backbone(codes))

    codes = encode()[0]
    done = lambda _: None  # noqa: E731  PyTorch's calls return when they are done
    return {"encode": Contender(encode, done), "decode": Contender(decode, done)}


def main(official_checkout: str, codebook_sizes: str, seconds: float, repeats: int, out: str) -> None:
    """Prints a line for each part, and writes the result as JSON."""
    sample_rate = cli.load_config(CONFIG)[1].data.sample_rate
    sound = 0.1 * np.random.default_rng(0).standard_normal((1, round(seconds * sample_rate))).astype(np.float32)
    load, cases = OtherLoad(), []
    for size in numbers(codebook_sizes, "codebook_sizes"):
        contenders = {("ours", part): run for part, run in ours(sound, size).items()}
        if official_checkout:
            peers = official(Path(official_checkout), sound, size)
            contenders |= {("official", part): run for part, run in peers.items()}
        measured = alternate(contenders, repeats)
        factors = {who: [value / seconds for value in values] for who, values in measured.items()}
        for part in ("encode", "decode"):
            case: dict[str, Any] = {"codebook_size": size, "part": part, "ours": summary(factors["ours", part])}
            if official_checkout:
                case["official"] = summary(factors["official", part])
                case["ratio"] = ratio(factors["official", part], factors["ours", part])
            cases.append(case)
            print(case)
    result = provenance(["flax", "torch"]) | {"seconds": seconds, "repeats": repeats, "cases": cases}
    write_json(out, result | {"cores_busy_elsewhere": load.cores()})


if __name__ == "__main__":
    cli.run_main(
        lambda official, **rest: main(official, **rest),
        {
            "official": "",
            "codebook_sizes": "1024,65536",
            "seconds": 10.0,
            "repeats": 7,
            "out": "benchmarks/results/realtime_cpu.json",
        },
        {
            "official": "folder of a checkout of github.com/youngsheen/SimVQ, to time its modules too",
            "codebook_sizes": "numbers of codes, separated by commas",
            "seconds": "of speech",
            "repeats": "rounds",
            "out": "file of the result",
        },
    )
