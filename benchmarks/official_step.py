"""The training step of the official PyTorch repository (github.com/youngsheen/SimVQ), run from a checkout of it.

Everything timed is the checkout's own code: networks, losses, quantizer, optimisers, moving average and
`training_step`. Before its modules are imported, three that a timed step does not need are replaced:
  lightning: the module's base becomes a plain torch module, whose hooks do what Lightning's do, without logging;
  main: its factory returns what it is given, so that networks can be handed over ready made;
  taming.modules.losses.lpips: would download weights; LPIPS is off here.
"""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml

from benchmarks.timing import Contender

CONFIG = "configs/imagenet_simvq_128_B.yaml"


class OfficialStep:
    """The official model on one batch of pictures.

    checkout: its root folder. images: float (batch, size, size, 3) in [-1, 1]. width: `ch`. dtype: "float32", or
    "bfloat16" for autocast, whose range needs no loss scaler, unlike the float16 of the official config.
    """

    def __init__(self, checkout: Path, images, *, width: int, codebook_size: int, dtype: str):
        torch = self._torch = import_torch()
        torch.manual_seed(0)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._autocast = lambda: torch.autocast(self._device, torch.bfloat16, enabled=dtype == "bfloat16")
        self._model = make_model(torch, checkout, images.shape[1], width, codebook_size).to(self._device)
        self._batch = {"image": torch.tensor(images, device=self._device)}
        self._pictures = self._model.get_input(self._batch, "image")
        with torch.no_grad(), self._autocast():
            self._latents = self._model.encoder(self._pictures)
            self._quantized = quantize(self._model, self._latents)

    def contenders(self) -> dict[str, Contender]:
        """By part: the whole step, and what can be run apart from it."""
        parts = {
            "step": self._step,
            "convolutions": self._convolutions,
            "quantizer": self._quantizer,
            "code_count": self._code_count,
        }
        return {name: Contender(run, self._wait) for name, run in parts.items()}

    def _wait(self, _) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def _step(self) -> None:
        with self._autocast():
            self._model.training_step(self._batch, 0)
        self._model.on_train_batch_end()

    def _convolutions(self) -> None:
        """Both losses and all their gradients with the latents handed to the decoder as they are."""
        model, zero = self._model, self._torch.zeros((), device=self._device)
        nothing = SimpleNamespace(per_sample_entropy=zero, codebook_entropy=zero, commitment=zero)
        with self._autocast():
            reconstruction = model.decoder(model.encoder(self._pictures))
            for player in (0, 1):
                loss, _ = model.loss(zero, nothing, self._pictures, reconstruction, player, 0, split="train")
                loss.backward()
        model.zero_grad()

    def _quantizer(self) -> None:
        """Codes of the latents, the count of codes in use, and the gradients for W, b and the latents."""
        latents = self._latents.detach().requires_grad_()
        with self._autocast():
            quantized = quantize(self._model, latents)
            self._count(quantized)
            z_q, _, _, losses = quantized
            (losses.commitment + z_q.sum()).backward()
        self._model.zero_grad()

    def _code_count(self) -> None:
        self._count(self._quantized)

    def _count(self, quantized) -> None:
        """What the model's forward does between its networks: it ticks off the codes in a list."""
        around = SimpleNamespace(
            encode=lambda _: quantized, decode=lambda z_q: z_q, codebook_count=self._model.codebook_count
        )
        type(self._model).forward(around, None)


def quantize(model, latents) -> tuple:
    """The quantizer's results as the model's `encode` orders them: z_q, 0, indices, losses."""
    (z_q, entropy, indices), losses = model.quantize(latents)
    return z_q, entropy, indices, losses


def import_torch() -> Any:
    """PyTorch, with the settings that the official main.py makes. Raises ValueError where it is not installed."""
    try:
        import einops  # noqa: F401  the quantizer needs it
        import torch
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--official needs {error.name}: install torch and einops, or leave --official out."
        ) from error
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.deterministic = True
    return torch


def make_model(torch, checkout: Path, size: int, width: int, codebook_size: int):
    """The official model of the official config with another picture size, width and K, and without LPIPS."""
    if not (checkout / CONFIG).is_file():
        raise ValueError(f"--official={checkout} holds no {CONFIG}: give a checkout of github.com/youngsheen/SimVQ.")
    VQModel, Loss, Quantizer = import_checkout(torch, checkout)
    arguments = yaml.safe_load((checkout / CONFIG).read_text(encoding="utf-8"))["model"]["init_args"]
    model = VQModel(
        arguments["ddconfig"] | {"resolution": size, "ch": width},
        Loss(**arguments["lossconfig"]["params"], perceptual_weight=0.0),
        Quantizer(**arguments["quantconfig"]["params"] | {"n_e": codebook_size}),
        learning_rate=float(arguments["learning_rate"]),  # "1e-4" is text in YAML
        scheduler_type=arguments["scheduler_type"],
        use_ema=arguments["use_ema"],
    )
    model.both_optimizers = [entry["optimizer"] for entry in model.configure_optimizers()]
    model.on_train_epoch_start()
    return model.train()


def import_checkout(torch, checkout: Path) -> tuple:
    """The classes of model, loss and quantizer."""

    class LightningModule(torch.nn.Module):
        """Manual optimisation without a trainer."""

        global_step = 0
        trainer = SimpleNamespace(  # only read for schedules, of which the config has none
            is_global_zero=False, world_size=1, max_epochs=1, datamodule=SimpleNamespace(_train_dataloader=list)
        )

        def optimizers(self):
            return self.both_optimizers

        def manual_backward(self, loss):
            loss.backward()

        def log_dict(self, *_, **__):
            pass

    replace_module("lightning", LightningModule=LightningModule)
    replace_module("main", instantiate_from_config=lambda ready: ready)
    replace_module("taming.modules.losses.lpips", LPIPS=torch.nn.Module)
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    from taming.models.vq import VQModel
    from taming.modules.losses.vqperceptual import VQLPIPSWithDiscriminator
    from taming.modules.vqvae.quantize import SimVQ

    return VQModel, VQLPIPSWithDiscriminator, SimVQ


def replace_module(name: str, **contents) -> None:
    """Makes imports of `name` yield the contents."""
    module = ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
