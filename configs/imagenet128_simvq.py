"""The paper's image experiment: ImageNet at 128 x 128, f = 8, SimVQ with K codes of d = 128.

    python -m simvq_jax.train --config=configs/imagenet128_simvq.py:65k --workdir=runs/imagenet128_simvq_65k \\
        --config.losses.lpips_vgg=vgg16-397923af.pth --config.losses.lpips_linear=vgg.pth

K is 1k, 8k, 65k or 262k. Model, losses, data, batch and length are the official ones: 50 epochs at a global batch of
256, EMA .999, LPIPS and PatchGAN from step 0. Quantizer and schedule follow recipes.stable: the networks warm up to
1e-4 and anneal, W has a constant 1e-3, StableVQ's rate for ImageNet, rows of C restart; not yet run at this size.
`:65k,paper` is the paper's recipe, a constant 1e-4 for everything.
docs/IMAGENET.md says how to prepare ImageNet, README where the two LPIPS files are.

Needs: 431 GFLOP a picture (the compiler's count before optimisation, LPIPS not in it, 2026-11-23), so 110 TFLOP a step
and 2.8e19 for all 250,250. On an H100 a step of 32 pictures by the paper's recipe, K = 65,536, bfloat16, without LPIPS,
takes 43.7 ms (2026-11-27); one of 256, LPIPS and memory were not measured. Where memory is short, raise
--config.accumulate or set --config.model.remat.

Expect (the paper's figures, 50,000 validation pictures; ours are not measured yet):
    K       utilization  rFID  LPIPS  PSNR   SSIM
    1k      100%         3.67  .16    22.34  70.8
    8k      100%         2.98  .14    23.23  74.7
    65k     100%         2.24  .12    24.15  78.4
    262k    100%         1.99  .11    24.68  80.3
"""

from configs import common, recipes

SIZES = {"1k": 1024, "8k": 8192, "65k": 65_536, "262k": 262_144}


def get_config(argument: str = "65k"):
    """argument: "1k", "8k", "65k" or "262k", and ",paper" after it for the paper's recipe."""
    size, paper = recipes.split("imagenet128_simvq.py", argument, SIZES)
    config = common.get_config()
    config.dtype = "bfloat16"
    config.quantizer.codebook_size = SIZES[size]
    recipes.stable(config, transform_rate=1e-3, warmup_fraction=0.02)
    if paper:
        recipes.paper(config)
    return config
