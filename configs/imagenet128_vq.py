"""The baseline of the paper's image experiment: the same model and training with vanilla VQ, which collapses.

    python -m simvq_jax.train --config=configs/imagenet128_vq.py:65k --workdir=runs/imagenet128_vq_65k \\
        --config.losses.lpips_vgg=vgg16-397923af.pth --config.losses.lpips_linear=vgg.pth

K is 1k, 8k, 65k or 262k; `:65k,paper` takes the paper's schedule. Needs what imagenet128_simvq.py needs, and 2 K d
further floats for the optimiser's moments of the codebook (67 MB at 65k).

Expect (the paper's figures, K = 65,536): utilization 1.4%, rFID 3.74, LPIPS .17, PSNR 22.20, SSIM 70.6.
"""

from configs import imagenet128_simvq, recipes


def get_config(argument: str = "65k"):
    """argument: "1k", "8k", "65k" or "262k", and ",paper" after it for the paper's schedule."""
    recipes.split("imagenet128_vq.py", argument, imagenet128_simvq.SIZES)
    config = imagenet128_simvq.get_config(argument)
    recipes.vanilla(config)
    return config
