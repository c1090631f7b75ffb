"""Share a tokenizer: `python -m simvq_jax.push --run=RUN --to=OWNER/NAME [--license=apache-2.0]`.

Packs what encoding and decoding need, with a model card (method, figures, samples, how to load), and uploads it to the
Hugging Face hub, with the token that `hf auth login` stored. `simvq_jax.load("hf://OWNER/NAME")` loads it anywhere.
--out=FOLDER packs only.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from simvq_jax import cli
from simvq_jax.api import ImageTokenizer, SoundTokenizer, Tokenizer, load
from simvq_jax.api.hub import hub_package
from simvq_jax.api.packed import write_packed
from simvq_jax.data import images
from simvq_jax.data.sources import SkipLog
from simvq_jax.data.views import Views
from simvq_jax.drawing.pictures import picture_grid
from simvq_jax.inputs import open_data

SAMPLES = 4
SHOWN = {
    "eval/psnr": "PSNR (dB)",
    "eval/ssim": "SSIM",
    "eval/lpips": "LPIPS",
    "eval/rfid": "rFID",
    "eval/mel_distance": "mel distance",
    "eval/stoi": "STOI",
    "eval/pesq": "PESQ",
    "eval/utmos": "UTMOS",
    "eval/codebook_utilization": "share of the codes in use",
    "eval/codebook_perplexity": "codebook perplexity",
    "eval/tokens": "held-out tokens",
}


def pack(run: Path, out: Path, name: str, license: str = "") -> None:
    """Writes a tokenizer and its model card into the folder `out`.

    name: OWNER/NAME, for the card. license: of the weights, as the hub spells it; "" states none.

    Raises FileExistsError where `out` is in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is in use: give another --out, so that nothing there is lost.")
    tokenizer = load(run)
    out.mkdir(parents=True, exist_ok=True)
    write_packed(tokenizer, out)
    evaluation = run / "evaluation.json"
    figures = json.loads(evaluation.read_text(encoding="utf-8")) if evaluation.is_file() else {}
    if figures:
        (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    samples = _write_samples(tokenizer, out)
    (out / "README.md").write_text(card(tokenizer, name, license, figures, samples), encoding="utf-8")


def push(run: Path, name: str, license: str = "", private: bool = False) -> str:
    """Packs a run and uploads it to `hf://NAME`, which is made if it is not there; returns its address on the web."""
    package = hub_package()
    with tempfile.TemporaryDirectory() as folder:
        pack(run, Path(folder) / "packed", name, license)
        api = package.HfApi()
        try:
            url = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=Path(folder) / "packed", commit_message="Add the tokenizer")
        except (package.errors.HfHubHTTPError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RuntimeError(
                f"hf://{name} could not be uploaded ({reason}): check the name, the network, and that hf auth login was"
                " done for that owner."
            ) from error
    return str(url)


def _write_samples(tokenizer: Tokenizer, out: Path) -> bool:
    """Held-out pictures over their reconstructions, as samples.png; whether there are any."""
    if not isinstance(tokenizer, ImageTokenizer):
        return False
    config = tokenizer.config
    try:
        source = open_data(config, "eval", SkipLog(None))
    except (OSError, ValueError) as error:
        logging.warning("The card has no samples, for the run's data cannot be read here: %s", error)
        return False
    views = Views("center", config.data.size, config.data.resize_short, tokenizer.factor, False)
    items = [item for i in range(min(len(source), SAMPLES)) if (item := source.read(i))]
    if not items:
        return False
    originals = np.stack([views.of(item["image"])[0].image for item in items])
    reconstructions = images.to_uint8(np.asarray(tokenizer.reconstruct(originals)))
    Image.fromarray(picture_grid([list(originals), list(reconstructions)])).save(out / "samples.png")
    return True


def card(tokenizer: Tokenizer, name: str, license: str, figures: dict[str, Any], samples: bool) -> str:
    """The model card, in the hub's Markdown."""
    front = ["library_name: simvq_jax", "tags: [simvq, vector-quantization, tokenizer, jax, flax]"]
    front += [f"license: {license}"] if license else []
    sound = isinstance(tokenizer, SoundTokenizer)
    quantizer = tokenizer.config.quantizer
    rows = [f"| {label} | {figures[key]:,.4g} |" for key, label in SHOWN.items() if key in figures]
    parts = [
        f"---\n{chr(10).join(front)}\n---",
        f"# {name}",
        f"A tokenizer of {'sound' if sound else 'images'} by {quantizer.kind} with {quantizer.codebook_size:,} codes"
        f" of {quantizer.dim} dimensions"
        + (f" in {quantizer.stages} stages" if quantizer.stages > 1 else "")
        + f", trained for {tokenizer.step:,} steps on `{tokenizer.config.data.source}` with simvq_jax.",
        "![Originals over reconstructions](samples.png)" if samples else "",
        _usage(tokenizer, name),
        f"## Figures\n\nOn `{figures['data']}`; evaluation.json says what is needed to repeat them.\n\n"
        f"| | |\n|---|---|\n{chr(10).join(rows)}"
        if rows
        else "## Figures\n\nIt was not evaluated.",
        f"## Config\n\n```\n{_config(tokenizer)}\n```",
        "" if license else "## Licence\n\nNone was stated for these weights.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _usage(tokenizer: Tokenizer, name: str) -> str:
    if isinstance(tokenizer, SoundTokenizer):
        x, shape = f"sound  # (b, samples) in [-1, 1] at {tokenizer.sample_rate} Hz", "(b, tokens)"
    else:
        x, shape = "images  # (b, h, w, 3), uint8 or float in [-1, 1]", "(b, h, w)"
    return (
        "## Use\n\n```python\nimport simvq_jax\n\n"
        f'tokenizer = simvq_jax.load("hf://{name}")\n'
        f"x = {x}\n"
        f"indices = tokenizer.encode(x)  # int32 {shape}\n"
        "reconstruction = tokenizer.decode(indices)\n```"
    )


def _config(tokenizer: Tokenizer) -> str:
    flat = cli.flatten(tokenizer.config)
    shown = {key: flat[key] for key in flat if key.startswith(("model.", "quantizer.", "losses."))}
    return "\n".join(f"{key} = {value}" for key, value in shown.items())


def main(run: str, to: str, out: str, license: str, private: bool) -> None:
    """Command line of `push` and of `pack`."""
    if out:
        pack(Path(run), Path(out), to, license)
        print(f"{out}: packed, not uploaded; simvq_jax.load({out!r}) loads it")
    else:
        print(push(Path(run), to, license, private))


if __name__ == "__main__":
    cli.run_main(
        main,
        {"run": cli.REQUIRED, "to": cli.REQUIRED, "out": "", "license": "", "private": False},
        {
            "run": "run folder, as runs/quickstart",
            "to": "repository on the hub, as OWNER/NAME",
            "out": "folder to pack into instead of uploading",
            "license": "of the weights, as the hub spells it: apache-2.0, cc-by-4.0, ...; by default none is stated",
            "private": "make the repository private where it is new",
        },
    )
