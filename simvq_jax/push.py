"""Share a tokenizer: `python -m simvq_jax.push --run=RUN --to=OWNER/NAME [--license=apache-2.0]`.

Packs what encoding and decoding need, with a model card (method, figures, samples, how to load), and uploads it to the
Hugging Face hub, with the token that `hf auth login` stored. `simvq_jax.load("hf://OWNER/NAME")` loads it anywhere.
--out=FOLDER packs only.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from simvq_jax import cli
from simvq_jax.api import ImageTokenizer, SoundTokenizer, Tokenizer, hub, load
from simvq_jax.api.packed import write_packed
from simvq_jax.build import codebooks_named, read_conversion, read_evaluation
from simvq_jax.compare import COLUMNS
from simvq_jax.data import images
from simvq_jax.data.sources import SkipLog
from simvq_jax.data.views import Views
from simvq_jax.drawing.pictures import picture_grid
from simvq_jax.files import new_folder
from simvq_jax.inputs import open_data
from simvq_jax.store import local_path

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
    "eval/codebook_utilization": "codes in use",
    "eval/codebook_perplexity": "codebook perplexity",
    "eval/tokens": "tokens",
}


def pack(run: Path, out: Path, name: str, license: str = "") -> None:
    """Writes a tokenizer and its model card into the folder `out`.

    name: OWNER/NAME, for the card. license: of the weights, as the hub spells it; "" states none.

    Paths of this machine in the config and the figures lose their folders. Raises FileExistsError where `out` is in
    use, ValueError on a name or a licence that the hub would not take, and on figures of other weights.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"--to={name} is no repository's name: write OWNER/NAME.")
    if license and not re.fullmatch(r"[a-z0-9.-]+", license):
        raise ValueError(f"--license={license!r} is no licence as the hub spells it: write one as apache-2.0.")
    tokenizer = load(run)
    figures, origin = read_evaluation(run, tokenizer.step), read_conversion(run)
    evaluated = figures.get("provenance", {}).get("model_sha256")
    if evaluated not in (None, tokenizer.fingerprint(decoder=True)):
        raise ValueError(
            f"{run} was evaluated with other weights of that step: run python -m simvq_jax.evaluate --run={run} again."
        )
    if figures:
        figures["data"] = _without_folders(figures["data"])
    with new_folder(out) as fresh:
        samples = _write_samples(tokenizer, fresh)
        for key, value in cli.flatten(tokenizer.config).items():
            if isinstance(value, str):
                tokenizer.config.update_from_flattened_dict({key: _without_folders(value)})
        tokenizer.config.data.data_dir = ""  # of this machine
        write_packed(tokenizer, fresh)
        for file, content in (("evaluation.json", figures), ("conversion.json", origin)):
            if content:
                (fresh / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(card(tokenizer, name, license, figures, origin, samples), encoding="utf-8")


def _without_folders(text: str) -> str:
    """`folder:/home/me/pictures` -> `folder:pictures`, `/data/vgg.pth` -> `vgg.pth`; other text as it is."""
    kind, colon, place = text.rpartition(":")
    return f"{kind}{colon}{Path(place).name}" if "/" in place and kind != "tfds" else text


def push(run: Path, name: str, license: str = "", private: bool = False) -> str:
    """Packs a run and uploads it to `hf://NAME`, which is made if it is not there; returns its address on the web."""
    package = hub.hub_package()
    with tempfile.TemporaryDirectory() as folder:
        pack(run, Path(folder) / "packed", name, license)
        api = package.HfApi()
        try:
            url = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=Path(folder) / "packed", commit_message="Add the tokenizer")
        except Exception as error:  # whatever the package's transport raises
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


def card(
    tokenizer: Tokenizer, name: str, license: str, figures: dict[str, Any], origin: dict[str, Any], samples: bool
) -> str:
    """The model card, in the hub's Markdown. origin: what `convert` wrote of the file it read, {} without."""
    front = ["library_name: simvq_jax", "tags: [simvq, vector-quantization, tokenizer, jax, flax]"]
    front += [f"license: {license}"] if license else []
    sound = isinstance(tokenizer, SoundTokenizer)
    quantizer = tokenizer.config.quantizer
    split = figures.get("provenance", {}).get("split", "eval")
    forms = {key: form for key, _, form in COLUMNS}
    rows = [f"| {label} | {forms[key].format(figures[key])} |" for key, label in SHOWN.items() if key in figures]
    parts = [
        f"---\n{chr(10).join(front)}\n---",
        f"# {name}",
        f"A tokenizer of {'sound' if sound else 'images'} by {quantizer.kind} with"
        f" {codebooks_named(quantizer, quantizer.codebook_size)} codes of {quantizer.dim} dimensions"
        + _history(tokenizer, origin),
        "![Originals over reconstructions](samples.png)" if samples else "",
        _usage(tokenizer, name),
        f"## Figures\n\nOn `{figures['data']}`, split {split}; evaluation.json says what is needed to repeat them.\n\n"
        f"| | |\n|---|---|\n{chr(10).join(rows)}"
        if rows
        else "## Figures\n\nIt was not evaluated.",
        f"## Config\n\n```\n{_config(tokenizer)}\n```",
        "" if license else "## Licence\n\nNone was stated for these weights.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _history(tokenizer: Tokenizer, origin: dict[str, Any]) -> str:
    trained = f"trained for {tokenizer.step:,} steps on `{tokenizer.config.data.source}` with simvq_jax."
    if not origin:
        return f", {trained}"
    source = f", converted from `{origin['checkpoint']}` of the official SimVQ (SHA-256 {origin['sha256']})"
    return f"{source}, then {trained}" if tokenizer.step else f"{source}."


def _usage(tokenizer: Tokenizer, name: str) -> str:
    if isinstance(tokenizer, SoundTokenizer):
        x, shape = f"sound  # (b, samples) in [-1, 1] at {tokenizer.sample_rate} Hz", "(b, tokens)"
    else:
        x, shape = "images  # (b, h, w, 3), uint8 or float in [-1, 1]", "(b, h, w)"
    stages = len(tokenizer.autoencoder.quantizer.codebook_sizes)
    if stages > 1:
        shape = f"{shape[:-1]}, {stages})"
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
        pack(hub.folder_of(run), local_path("out", out), to, license)
        print(f"{out}: packed, not uploaded; simvq_jax.load({out!r}) loads it")
    else:
        print(push(hub.folder_of(run), to, license, private))


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
