"""Data flows one way: a file imports only what stands above it in a table; and imports stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# (place, what it may import from the project); places inside one row may import each other.
LAYERS = [
    ("simvq_jax.search", set()),
    ("simvq_jax.dsp", set()),
    ("simvq_jax.mesh", set()),
    ("simvq_jax.store", set()),
    ("simvq_jax.files", {"store"}),
    ("simvq_jax.progress", set()),
    ("simvq_jax.programs", set()),
    ("simvq_jax.cli", set()),
    ("simvq_jax.accelerators", set()),
    ("simvq_jax.versions", set()),
    ("simvq_jax.agreement", {"versions"}),
    ("simvq_jax.cluster", {"cli", "accelerators", "agreement"}),
    ("simvq_jax.stopping", set()),
    ("simvq_jax.drawing", {"dsp"}),
    ("simvq_jax.data", {"cli", "files", "store"}),
    ("simvq_jax.quantize", {"search"}),
    ("simvq_jax.models.convolution", set()),
    ("simvq_jax.models.layers", {"models.convolution"}),
    ("simvq_jax.models.lstm", set()),
    ("simvq_jax.models.pretrained", {"dsp", "models.layers", "models.lstm"}),
    ("simvq_jax.models", {"dsp", "models.layers", "quantize"}),
    ("simvq_jax.discriminators", {"dsp", "models.layers"}),
    ("simvq_jax.official", {"discriminators", "models", "quantize"}),
    ("simvq_jax.losses", {"dsp", "models.layers", "models.pretrained"}),
    ("simvq_jax.metrics", {"dsp", "models.pretrained", "losses.perceptual"}),
    ("simvq_jax.state", {"mesh"}),
    ("simvq_jax.optim", {"mesh"}),
    ("simvq_jax.checkpoint", {"cluster", "mesh", "state", "store"}),
    ("simvq_jax.writers", {"agreement", "files"}),
    ("simvq_jax.health", {"metrics", "optim", "quantize"}),
    ("simvq_jax.game", {"losses", "metrics", "models", "state"}),
    ("simvq_jax.step", {"game", "health", "losses", "models", "optim", "state"}),
]
# Above these, order in the list is all there is: each may import every place before it.
ENTRY_POINTS = [
    "hlo",
    "build",
    "inputs",
    "api",
    "provenance",
    "scoring",
    "evaluate",
    "report",
    "compare",
    "observer",
    "run_folder",
    "experiment",
    "start",
    "explain",
    "convert",
    "token_records",
    "extract_tokens",
    "export",
    "push",
    "train",
    "reconstruct",
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def project_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("simvq_jax"):
            names = [alias.name for alias in node.names] if node.module == "simvq_jax" else []
            found |= {f"simvq_jax.{name}" for name in names} or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("simvq_jax")}
    return found


def allowed_for(module: str) -> set[str] | None:
    """Prefixes that `module` may import, or None where it has no place."""
    for place, allowed in LAYERS:
        if module == place or module.startswith(f"{place}."):
            return {place, *(f"simvq_jax.{name}" for name in allowed)}
    name = module.removeprefix("simvq_jax.").partition(".")[0]
    if name in ENTRY_POINTS:
        above = ENTRY_POINTS[: ENTRY_POINTS.index(name) + 1]
        return {place for place, _ in LAYERS} | {f"simvq_jax.{entry}" for entry in above}
    return None


@pytest.mark.parametrize("path", sorted((ROOT / "simvq_jax").rglob("*.py")), ids=module_of)
def test_a_file_imports_only_what_stands_above_it(path):
    module = module_of(path)
    if module == "simvq_jax":
        assert not project_imports(path), "the package itself imports lazily"
        return
    allowed = allowed_for(module)
    assert allowed is not None, f"{module} has no place in the table: add it here"
    for imported in project_imports(path):
        assert any(imported == a or imported.startswith(f"{a}.") for a in allowed), f"{module} imports {imported}"


def test_reconstruct_does_not_import_train():
    assert "simvq_jax.train" not in project_imports(ROOT / "simvq_jax/reconstruct.py")


def test_no_module_shadows_the_standard_library():
    names = {path.stem for path in (ROOT / "simvq_jax").glob("*.py")}
    assert not names & set(sys.stdlib_module_names)


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, simvq_jax; simvq_jax.SimVQ, simvq_jax.nearest_code;"
        "print([m for m in ('grain', 'orbax', 'tensorflow_datasets', 'clu', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves():
    import simvq_jax

    for name in simvq_jax.__all__:
        assert getattr(simvq_jax, name) is not None
    with pytest.raises(AttributeError, match="no public name 'SimVQQ'"):
        simvq_jax.SimVQQ  # noqa: B018
