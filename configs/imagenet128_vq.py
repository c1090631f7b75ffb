"""The baseline of the paper's image experiment: the same model and training with vanilla VQ, which collapses.

    python -m simvq_jax.train --config=configs/imagenet128_vq.py:65k --workdir=runs/imagenet128_vq_65k \\
        --config.losses.lpips_vgg=vgg16-397923af.pth --config.losses.lpips_linear=vgg.pth

K is 1k, 8k, 65k or 262k. Needs what imagenet128_simvq.py needs, and 2 K d further floats for the optimiser's moments
of the codebook (67 MB at 65k).

Expect (the paper's figures, K = 65,536): utilization 1.4%, rFID 3.74, LPIPS .17, PSNR 22.20, SSIM 70.6.
"""

from configs import imagenet128_simvq


def get_config(size: str = "65k"):
    """size: "1k", "8k", "65k" or "262k"."""
    if size not in imagenet128_simvq.SIZES:
        raise ValueError(f"imagenet128_vq.py:{size} is unknown: K must be one of {', '.join(imagenet128_simvq.SIZES)}.")
    config = imagenet128_simvq.get_config(size)
    config.quantizer.kind = "vq"
    return config
