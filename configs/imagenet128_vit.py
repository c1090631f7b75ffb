"""ImageNet at 128 x 128 with a vision transformer of ViT-VQGAN's small size, f = 8, SimVQ with K codes of d = 128.

    python -m simvq_jax.train --config=configs/imagenet128_vit.py:65k --workdir=runs/imagenet128_vit_65k \\
        --config.losses.lpips_vgg=vgg16-397923af.pth --config.losses.lpips_linear=vgg.pth

K is 1k, 8k, 65k or 262k; `:65k,paper` takes the paper's recipe. Data, losses, batch and length are those of
imagenet128_simvq.py; the discriminator starts after a tenth of the steps. Not yet run at this size.
"""

from configs import imagenet128_simvq, recipes


def get_config(argument: str = "65k"):
    """argument: "1k", "8k", "65k" or "262k", and ",paper" after it for the paper's recipe."""
    recipes.split("imagenet128_vit.py", argument, imagenet128_simvq.SIZES)
    config = imagenet128_simvq.get_config(argument)
    config.model.kind = "vit"
    config.model.patch = 8
    config.model.width = 512
    config.model.depth = 8
    config.model.heads = 8
    config.discriminator.start = config.steps // 10
    return config
