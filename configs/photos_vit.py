"""The quickstart with a vision transformer in place of convolutions.

    python -m simvq_jax.train --config=configs/photos_vit.py --workdir=runs/photos_vit
    python -m simvq_jax.train --config=configs/photos_vit.py:vq --workdir=runs/photos_vit_vq
    python -m simvq_jax.train --config=configs/photos_vit.py:paper --workdir=runs/photos_vit_paper

Needs two CPU cores and 2 GB of memory.
"""

from configs import quickstart, recipes


def get_config(method: str = "simvq"):
    """method: as in quickstart.py."""
    recipes.check_method("photos_vit.py", method)
    config = quickstart.get_config(method)
    config.model.kind = "vit"
    config.model.patch = 4
    config.model.width = 128
    config.model.depth = 3
    config.model.heads = 4
    return config
