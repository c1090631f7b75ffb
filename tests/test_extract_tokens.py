"""Tokens of a data set: those of `encode`, every format and view, processes, interruptions, unreadable files."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simvq_jax
from simvq_jax import programs, reconstruct, token_records
from simvq_jax.data.tokens import msgpack_restore, summary_path, token_dtype
from simvq_jax.data.views import Views
from simvq_jax.extract_tokens import Share, extract_run, extract_tokens
from simvq_jax.inputs import READING

SIZES = [(24, 24), (25, 31), (64, 24), (24, 40), (7, 9), (30, 30), (24, 24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of two classes and many sizes, one of them damaged."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        path = root / ("cats" if i % 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    (root / "cats/broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def tokenizer(trained_run):
    return simvq_jax.load(trained_run, decoder=False)


def views(crops="center", **fields):
    return Views(crops, **{"size": 24, "resize_short": 0, "factor": 4, "flip": False, **fields})


def extract(tokenizer, out, folder, **changes):
    settings = {"data": f"folder:{folder}", "views": views(), "batch_size": 4, "shard_size": 3, **changes}
    return extract_tokens(tokenizer, out, **settings)


@pytest.fixture(scope="module")
def extracted(tokenizer, folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tokens") / "center"
    extract(tokenizer, out, folder)
    return out


def records_of(out: Path) -> list[dict]:
    source = simvq_jax.TokenSource(out)
    return [source[i] for i in range(len(source))]


def assert_same(found: list[dict], wanted: list[dict]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert {**a, "tokens": None} == {**b, "tokens": None}
        np.testing.assert_array_equal(a["tokens"], b["tokens"])
        assert a["tokens"].dtype == b["tokens"].dtype


def test_tokens_are_those_of_encode_with_keys_labels_and_places(tokenizer, folder, extracted):
    records = records_of(extracted)
    assert [record["key"] for record in records] == [
        f"{label}/{i}.png" for label in ("cats", "dogs") for i in range(7) if (label == "cats") == bool(i % 2)
    ]
    for record in records:
        image = np.asarray(Image.open(folder / record["key"]))
        (view,) = views().of(image)
        assert record["label"] == record["key"].split("/")[0] and record["view"] == 0
        assert {name: record[name] for name in view.place()} == view.place()
        assert record["tokens"].dtype == np.uint16 and record["tokens"].shape == (6, 6)
        np.testing.assert_array_equal(record["tokens"], tokenizer.encode(view.image[None])[0])


def test_the_manifest_says_what_the_tokens_are(tokenizer, extracted):
    manifest = json.loads((extracted / "manifest.json").read_text())
    assert manifest["records"] == 7 and manifest["items"] == 8 and manifest["codebook_size"] == 96
    assert [shard["records"] for shard in manifest["shards"]] == [3, 2, 2]
    assert manifest["model"] == tokenizer.fingerprint() and len(manifest["model"]) == 64
    assert manifest["max_pixels"] == tokenizer.config.data.max_pixels
    (skipped,) = manifest["skipped"]
    assert skipped["key"] == "cats/broken.png" and "not an image" in skipped["reason"]


@pytest.mark.slow
def test_ten_crops_and_whole_pictures(tokenizer, folder, tmp_path):
    extract(tokenizer, tmp_path / "ten", folder, views=views("ten"))
    ten = records_of(tmp_path / "ten")
    assert [record["view"] for record in ten] == list(range(10)) * 7
    extract(tokenizer, tmp_path / "whole", folder, views=views("whole"))
    for record in records_of(tmp_path / "whole"):
        assert record["tokens"].shape == (-(-record["height"] // 4), -(-record["width"] // 4))
        image = np.asarray(Image.open(folder / record["key"]))
        np.testing.assert_array_equal(record["tokens"], tokenizer.encode(views("whole").of(image)[0].image[None])[0])


@pytest.mark.parametrize("crops", ["center", "whole"])
@pytest.mark.slow
def test_npz_and_json_lines_hold_the_same(tokenizer, folder, tmp_path, crops):
    for form in ("array_record", "npz", "jsonl"):
        extract(tokenizer, tmp_path / form, folder, form=form, views=views(crops))
    wanted = records_of(tmp_path / "array_record")
    lines = [line for file in sorted((tmp_path / "jsonl").glob("*.jsonl")) for line in file.read_text().splitlines()]
    for line, record in zip(map(json.loads, lines), wanted, strict=True):
        np.testing.assert_array_equal(line.pop("tokens"), record["tokens"])
        assert line == {name: value for name, value in record.items() if name != "tokens"}
    place = 0
    for file in sorted((tmp_path / "npz").glob("*.npz")):
        arrays = np.load(file)
        tokens, begin = arrays["tokens"], 0
        for row, key in enumerate(arrays["key"]):
            shape = arrays["shapes"][row] if "shapes" in arrays else tokens.shape[1:]
            of_row = tokens[begin : begin + np.prod(shape)].reshape(shape) if "shapes" in arrays else tokens[row]
            begin += np.prod(shape)
            np.testing.assert_array_equal(of_row, wanted[place]["tokens"])
            assert key == wanted[place]["key"] and arrays["label"][row] == wanted[place]["label"]
            place += 1
    assert place == 7
    with pytest.raises(ValueError, match="tokens as npz, which have no random access"):
        simvq_jax.TokenSource(tmp_path / "npz")


def test_processes_share_the_shards(tokenizer, folder, extracted, tmp_path):
    done = [extract(tokenizer, tmp_path / "out", folder, share=Share(process, 2)) for process in (1, 0)]
    assert [part.complete for part in done] == [False, True]
    assert [part.records for part in done] == [2, 5]
    assert_same(records_of(tmp_path / "out"), records_of(extracted))


def test_the_source_works_with_grain(extracted):
    import grain

    batches = grain.MapDataset.source(simvq_jax.TokenSource(extracted)).map(lambda r: r["tokens"]).batch(7)
    assert batches[0].shape == (7, 6, 6)


def test_a_second_call_writes_nothing_and_a_lost_shard_is_made_again(tokenizer, folder, extracted, tmp_path):
    out = shutil.copytree(extracted, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert extract(tokenizer, out, folder).records == 0
    shard = out / "tokens-00001-of-00003.array_record"
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks tokens-00001-of-00003\.array_record"):
        simvq_jax.TokenSource(out)
    assert extract(tokenizer, out, folder).records == 2
    shard.write_bytes(b"cut off")
    (out / f".{shard.name}.{socket.gethostname()}.999999999.0.tmp").write_bytes(b"half")
    assert extract(tokenizer, out, folder).records == 2
    summary_path(shard).unlink()
    assert extract(tokenizer, out, folder).records == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.slow
def test_two_processes_of_the_same_share_do_not_disturb_each_other(trained_run, folder, extracted, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "simvq_jax.extract_tokens", f"--run={trained_run}", f"--data=folder:{folder}"]
    command += [f"--out={out}", "--size=24", "--resize_short=0", "--batch_size=4", "--shard_size=3"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert_same(records_of(out), records_of(extracted))
    assert {path.name for path in out.iterdir()} == {path.name for path in extracted.iterdir()}


def test_of_processes_with_different_settings_one_is_told(tokenizer, folder, tmp_path, monkeypatch):
    """Both start on a new folder at once."""
    from simvq_jax import extract_tokens as module

    original, claimed = module.create_text, []

    def rival_first(path, text):
        if not claimed:
            claimed.append(original(path, text.replace('"flip": false', '"flip": true')))
        return original(path, text)

    monkeypatch.setattr(module, "create_text", rival_first)
    with pytest.raises(ValueError, match="flip: True -> False"):
        extract(tokenizer, tmp_path / "out", folder)
    assert claimed == [True]


def test_a_name_that_is_not_utf_8_is_escaped(tokenizer, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (24, 24)).save(data / os.fsdecode(b"\xff\xfe.png"), format="PNG")
    extract(tokenizer, tmp_path / "out", data)
    assert [record["key"] for record in records_of(tmp_path / "out")] == ["\\xff\\xfe.png"]


def test_nothing_readable_is_an_error(tokenizer, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of the 1 items of folder:.* can be read: see .*manifest\.json"):
        extract(tokenizer, tmp_path / "out", tmp_path / "data")
    with pytest.raises(ValueError, match="holds no record"):
        simvq_jax.TokenSource(tmp_path / "out")


@pytest.mark.slow
def test_pictures_of_all_sizes_do_not_pile_up_programs(tokenizer, monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 2)
    maker = token_records.RecordMaker(tokenizer, views("whole"), 4)
    items = [{"image": np.zeros((4 * n, 8, 3), np.uint8), "key": str(n), "label": None} for n in range(1, 6)]
    assert [record["tokens"].shape for record in maker.records(items)] == [(n, 2) for n in range(1, 6)]
    assert maker._encode._function._cache_size() <= 2


@pytest.mark.parametrize("key", ["", "../out", "/etc/out", 5])
def test_keys_that_lead_elsewhere_are_not_written(trained_run, extracted, tmp_path, monkeypatch, key):
    record = {"tokens": np.zeros((2, 2), np.uint16), "key": key, "height": 8, "width": 8}
    monkeypatch.setattr(simvq_jax.TokenSource, "__getitem__", lambda self, index: record)
    with pytest.raises(ValueError, match="leads out of"):
        reconstruct.decode_tokens(simvq_jax.load(trained_run), extracted, tmp_path / "decoded")
    assert not list(tmp_path.rglob("*.png"))


def test_the_folder_of_the_tokens_is_not_written_to(trained_run, extracted):
    with pytest.raises(ValueError, match="is the folder of the tokens"):
        reconstruct.decode_tokens(simvq_jax.load(trained_run), extracted, extracted)


@pytest.mark.slow
def test_a_manifest_of_something_else_makes_no_folder_of_tokens(trained_run, folder, tmp_path):
    data = shutil.copytree(folder, tmp_path / "data")
    (data / "manifest.json").write_text('{"name": "webapp"}')
    reconstruct.main(str(trained_run), str(data), str(tmp_path / "out"), 10**6, 60.0)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 7


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"views": views("ten")}, "other settings \\(crops: 'center' -> 'ten'\\): give another --out"),
        ({"shard_size": 2}, "shard_size: 3 -> 2"),
        ({"form": "npz"}, "format: 'array_record' -> 'npz'"),
        ({"form": "csv"}, "format is 'csv' but must be one of array_record, npz, jsonl"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"share": Share(2, 2)}, "process_index is 2 but must lie in 0..1"),
        ({"share": Share(0, -1)}, "process_count is -1 but must be at least 1"),
    ],
)
def test_other_settings_are_refused_and_nothing_changes(tokenizer, folder, extracted, changes, sentence):
    before = {path: path.read_bytes() for path in extracted.iterdir()}
    with pytest.raises(ValueError, match=sentence):
        extract(tokenizer, extracted, folder, **changes)
    assert {path: path.read_bytes() for path in extracted.iterdir()} == before


def test_data_that_changed_is_refused(tokenizer, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "data")
    extract(tokenizer, tmp_path / "out", copy, shard_size=100)
    (copy / "dogs/6.png").rename(copy / "cats/6.png")
    with pytest.raises(ValueError, match="data_identity"):
        extract(tokenizer, tmp_path / "out", copy, shard_size=100)


def test_a_folder_in_use_stays_as_it_is(tokenizer, folder, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is in use"):
        extract(tokenizer, tmp_path, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_disk_that_is_full_is_told_and_goes_on_later(tokenizer, folder, extracted, tmp_path, monkeypatch):
    from simvq_jax.data import tokens

    with monkeypatch.context() as patched:
        patched.setitem(tokens.FORMATS, "array_record", lambda path, records: Path("/dev/full").write_bytes(b"x" * 99))
        with pytest.raises(RuntimeError, match="No space left on device"):
            extract(tokenizer, tmp_path / "out", folder)
    extract(tokenizer, tmp_path / "out", folder)
    assert_same(records_of(tmp_path / "out"), records_of(extracted))


@pytest.mark.slow
def test_killed_five_times_the_output_is_that_of_an_uninterrupted_run(trained_run, folder, extracted, tmp_path):
    """By kill -9 at random, in a process of its own."""
    out, draw = tmp_path / "out", random.Random(0)
    command = [sys.executable, "-m", "simvq_jax.extract_tokens", f"--run={trained_run}", f"--data=folder:{folder}"]
    command += [f"--out={out}", "--size=24", "--resize_short=0", "--batch_size=4", "--shard_size=3"]
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted, deadline = len(list(out.glob("*.json"))) + draw.choice((0, 1)), time.monotonic() + 60
        while len(list(out.glob("*.json"))) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert_same(records_of(out), records_of(extracted))
    names = {path.name for path in extracted.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    for name in names:
        if name.endswith(".array_record"):
            assert (out / name).read_bytes() == (extracted / name).read_bytes()


@pytest.mark.slow
def test_tokens_are_decoded_to_the_reconstructions_of_their_pictures(trained_run, tokenizer, folder, tmp_path):
    extract(tokenizer, tmp_path / "tokens", folder, views=views("whole"))
    reconstruct.main(str(trained_run), str(tmp_path / "tokens"), str(tmp_path / "decoded"), 10**6, 60.0)
    reconstruct.main(str(trained_run), str(folder), str(tmp_path / "direct"), 10**6, 60.0)
    decoded = sorted(path.relative_to(tmp_path / "decoded") for path in (tmp_path / "decoded").rglob("*.png"))
    assert len(decoded) == 7
    for place in decoded:
        direct = tmp_path / "direct" / place.with_suffix("")
        np.testing.assert_array_equal(Image.open(tmp_path / "decoded" / place), Image.open(direct))


def test_every_view_is_decoded_to_its_own_file(trained_run, tokenizer, folder, tmp_path):
    extract(tokenizer, tmp_path / "tokens", folder, views=views(flip=True))
    reconstruct.main(str(trained_run), str(tmp_path / "tokens"), str(tmp_path / "decoded"), 10**6, 60.0)
    assert len(list((tmp_path / "decoded").rglob("*.png"))) == 14
    assert (tmp_path / "decoded/cats/1.png.1.png").is_file()


def test_tokens_of_another_model_are_not_decoded(trained_run, extracted, tmp_path):
    out = shutil.copytree(extracted, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"model": "0" * 64}))
    with pytest.raises(ValueError, match="tokens of another model"):
        reconstruct.decode_tokens(simvq_jax.load(trained_run), out, tmp_path / "decoded")


def test_a_tokenizer_without_its_decoder_only_encodes(tokenizer):
    assert set(tokenizer.variables["params"]) == {"encoder", "quantizer"}
    with pytest.raises(ValueError, match="loaded with decoder=False and only encodes"):
        tokenizer.decode(np.zeros((1, 2, 2), int))


def test_a_record_is_plain_msgpack(extracted):
    """So that others can read it."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(extracted / "tokens-00000-of-00003.array_record"))
    record = msgpack_restore(reader.read())
    assert record["key"] == "cats/1.png"
    reader.close()


def test_indices_take_two_bytes_where_they_fit():
    assert [token_dtype(k) for k in (2, 2**16, 2**16 + 1)] == [np.uint16, np.uint16, np.uint32]


def test_an_unfinished_folder_is_no_source(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"manifest\.json does not exist, or is not of tokens: give a folder that"
    ):
        simvq_jax.TokenSource(tmp_path)


def test_the_command_line_prints_counts(trained_run, folder, tmp_path, capsys):
    from simvq_jax import extract_tokens as module

    rest = {"batch_size": 4, "shard_size": 100, "format": "array_record", "process_index": 0, "process_count": 1}
    rest |= READING
    arguments = {"split": "all", "crops": "center", "size": 24, "resize_short": -1, "flip": False}
    module.main(run=str(trained_run), data=f"folder:{folder}", out=str(tmp_path / "out"), **arguments, **rest)
    printed = capsys.readouterr().out
    assert "7 records in" in printed and "1 file(s) could not be read and are listed in" in printed
    module.main(run=str(trained_run), data=f"folder:{folder}", out=str(tmp_path / "out"), **arguments, **rest)
    again = capsys.readouterr().out
    assert "0 records in" in again and "1 file(s) could not be read and are listed in" in again
    with pytest.raises(ValueError, match="leave --size and --resize_short out"):
        module.main(run=str(trained_run), data="", out="x", **arguments | {"crops": "whole"}, **rest)
    small = {"data": f"folder:{folder}", "out": str(tmp_path / "small"), **rest, "max_pixels": 1}
    with pytest.raises(ValueError, match="none of the 8 items"):
        module.main(run=str(trained_run), **arguments, **small)
    reasons = [skipped["reason"] for skipped in json.loads((tmp_path / "small/manifest.json").read_text())["skipped"]]
    assert sum("over the limit of max_pixels=1;" in reason for reason in reasons) == 7


def test_a_bucket_is_no_place_for_tokens():
    choices = {"data": "", "split": "eval", "crops": "center", "size": 0, "resize_short": -1, "flip": False}
    with pytest.raises(ValueError, match=r"--out=gs://bucket/tokens lies in a bucket, .*: give a path on one"):
        extract_run("nowhere", Share(0, 1), out="gs://bucket/tokens", **choices)
