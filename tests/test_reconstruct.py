"""A folder of any pictures to a folder of PNGs: nothing is lost, overwritten or silently left out."""

import numpy as np
import pytest
from PIL import Image

from simvq_jax import api, reconstruct
from simvq_jax.data.images import decode_image, to_uint8
from simvq_jax.reconstruct import form_of, reconstruct_folder

LIMIT = 10_000


@pytest.fixture(scope="module")
def tokenizer(trained_run):
    return api.load(trained_run)


def save(path, mode="RGB", size=(9, 7), **options):
    """A picture of noise; size: (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def files_under(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_mode_and_size_comes_back_as_a_png_of_its_size(tokenizer, tmp_path):
    inputs, out = tmp_path / "in", tmp_path / "out"
    sizes = {"odd.png": (9, 7), "grey.png": (9, 7), "palette.gif": (9, 7), "cmyk.jpg": (12, 8), "dot.png": (1, 1)}
    modes = {"grey.png": "L", "palette.gif": "P", "cmyk.jpg": "CMYK"}
    for name, size in sizes.items():
        save(inputs / name, modes.get(name, "RGB"), size)
    assert reconstruct_folder(form_of(tokenizer, LIMIT, 60.0), inputs, out).count == 0
    assert files_under(out) == sorted(f"{name.split('.')[0]}.png" for name in sizes)
    for name, size in sizes.items():
        with Image.open(out / f"{name.split('.')[0]}.png") as image:
            assert image.size == size and image.mode == "RGB" and image.format == "PNG"


def test_the_pixels_are_the_tokenizer_s(tokenizer, tmp_path):
    file = save(tmp_path / "in/a.png")
    reconstruct_folder(form_of(tokenizer, LIMIT, 60.0), file.parent, tmp_path / "out")
    expected = to_uint8(np.asarray(tokenizer.reconstruct(decode_image(file, LIMIT)[None])[0]))
    with Image.open(tmp_path / "out/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_nested_folders_keep_their_places(tokenizer, tmp_path):
    for name in ("a.png", "deep/a.png", "deep/er/b.PNG"):
        save(tmp_path / "in" / name)
    (tmp_path / "in/notes.txt").write_text("no picture")
    reconstruct_folder(form_of(tokenizer, LIMIT, 60.0), tmp_path / "in", tmp_path / "out")
    assert files_under(tmp_path / "out") == ["a.png", "deep/a.png", "deep/er/b.png"]


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["a.jpg", "a.png", "b.jpg"], ["a.jpg.png", "a.png.png", "b.png"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.png", "a.jpg.png.png", "a.png.png"]),
    ],
)
def test_names_that_differ_in_the_suffix_stay_apart(tokenizer, tmp_path, names, written):
    for name in names:
        save(tmp_path / "in" / name)
    reconstruct_folder(form_of(tokenizer, LIMIT, 60.0), tmp_path / "in", tmp_path / "out")
    assert files_under(tmp_path / "out") == written


def test_damaged_and_too_large_files_are_listed_and_the_rest_is_done(tokenizer, tmp_path):
    inputs, out = tmp_path / "in", tmp_path / "out"
    save(inputs / "good.png")
    save(inputs / "large.png", size=(200, 51))
    whole = save(inputs / "deep/cut.png", size=(40, 40)).read_bytes()
    (inputs / "deep/cut.png").write_bytes(whole[: len(whole) // 2])
    (inputs / "text.jpg").write_text("no picture")
    skipped = reconstruct_folder(form_of(tokenizer, LIMIT, 60.0), inputs, out)
    assert skipped.count == 3
    assert files_under(out) == ["good.png", "skipped_files.txt"]
    listed = dict(line.split("\t") for line in (out / "skipped_files.txt").read_text().splitlines())
    assert set(listed) == {"deep/cut.png", "large.png", "text.jpg"}
    assert "200 x 51 pixels, over the limit of max_pixels=10000" in listed["large.png"]


def test_a_single_file_is_taken(tokenizer, tmp_path):
    file = save(tmp_path / "in/a.jpg")
    save(tmp_path / "in/other.png")
    reconstruct_folder(form_of(tokenizer, LIMIT, 60.0), file, tmp_path / "out")
    assert files_under(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize("place", ["in", "in/../in", "."])
def test_inputs_are_never_overwritten(tokenizer, tmp_path, place):
    """Their own folder, another way to it, or a parent in which a name below meets another."""
    inputs = tmp_path / "in"
    first = save(inputs / "a.png") if place != "." else save(inputs / "b.png")
    save(inputs / "in/b.png", size=(4, 4))
    before = first.read_bytes()
    with pytest.raises(ValueError, match="give another --out, so that none is overwritten"):
        reconstruct_folder(form_of(tokenizer, LIMIT, 60.0), inputs, tmp_path / place)
    assert first.read_bytes() == before
    assert files_under(tmp_path) == sorted([f"in/{first.name}", "in/in/b.png"])


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_reconstruct_is_an_error(tokenizer, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        reconstruct_folder(form_of(tokenizer, LIMIT, 60.0), tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_targets_of_many_files_are_found_in_no_time():
    """A count for each of them over all would take hours at 50,000."""
    from pathlib import Path

    counted = []

    class Counted(type(Path())):
        def __eq__(self, other):
            counted.append(1)
            return super().__eq__(other)

        __hash__ = type(Path()).__hash__

    files = [Counted(f"/in/{number}.jpg") for number in range(300)]
    targets = reconstruct._targets(files, Counted("/in"), Counted("/out"), ".png")
    assert len(set(targets)) == 300 and len(counted) < 20 * 300


def test_the_command_says_what_was_left_out(trained_run, tmp_path, capsys):
    save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("no picture")
    reconstruct.main(str(trained_run), str(tmp_path / "in"), str(tmp_path / "out"), LIMIT, 60.0)
    assert "1 file(s) could not be read" in capsys.readouterr().out
    assert files_under(tmp_path / "out") == ["a.png", "skipped_files.txt"]
