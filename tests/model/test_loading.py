"""Loading a base: what is right is found, what is wrong gets one sentence that says what to do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.architectures import CAUSAL, ENCODERS, base, model, tokenizer

from metier.errors import UserError
from metier.model import Specialist, load_base
from metier.model.loading import fingerprint
from metier.task import Prompt


def written(folder: Path, name: str = "llama", **options: Any) -> Path:
    model(name).save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["llama", "gpt2", "tied", "bert", "roberta", "mpnet", "t5", "mamba"])
def test_what_is_right_is_found(tmp_path: Path, name: str) -> None:
    made = load_base(written(tmp_path / "ein Modell, größer", name), device="cpu")
    assert made.family == base(name).family
    assert made.fingerprint == base(name).fingerprint
    assert made.dtype == "float32"
    assert not made.model.training
    assert not any(p.requires_grad for p in made.model.parameters())
    assert load_base(made) is made


def test_the_fingerprint_is_of_every_bit(tmp_path: Path) -> None:
    folder = written(tmp_path / "one")
    first = load_base(folder, device="cpu").fingerprint
    split = load_base(written(tmp_path / "split", max_shard_size="20KB"), device="cpu")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    assert split.fingerprint == first
    tensors = load_file(folder / "model.safetensors")
    for name in (min(tensors), max(tensors)):
        changed = {k: v.clone() for k, v in tensors.items()}
        changed[name].view(torch.uint8).view(-1)[-1] ^= 1
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        assert load_base(folder, device="cpu").fingerprint != first
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_base(folder, device="cpu").fingerprint == first
    assert load_base(folder, device="cpu", dtype="bfloat16").fingerprint != first


def test_the_fingerprint_leaves_out_what_is_computed() -> None:
    made = base("llama").model
    before = fingerprint(made)
    table = made.model.rotary_emb.inv_freq
    kept = table.clone()
    table[0] = torch.nextafter(table[0], torch.tensor(2.0))
    assert fingerprint(made) == before
    table.copy_(kept)


def test_a_base_without_a_padding_token(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    model("llama").save_pretrained(folder)
    tokenizer(pad=False).save_pretrained(folder)
    made = load_base(folder, device="cpu")
    assert made.tokenizer.pad_token_id == 2
    prompts = [Prompt("abc"), Prompt("a")]
    whole = Specialist(made).score(prompts, [["x", "yz"]] * 2)
    for one, prompt in zip(whole, prompts, strict=True):
        torch.testing.assert_close(Specialist(made).score([prompt], [["x", "yz"]])[0], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "limit"), [("bert", 40), ("roberta", 39), ("mpnet", 38), ("distilbert", 40), ("gpt2", 128), ("llama", 128), ("mamba", 2048)]
)
def test_how_much_it_reads(tmp_path: Path, name: str, limit: int) -> None:
    """RoBERTa's kin lose the positions up to the padding's own (0 in these models, 1 in MPNet's)."""
    made = load_base(written(tmp_path, name), device="cpu")
    assert made.max_length == limit
    if name in ENCODERS:
        assert torch.isfinite(Specialist(made).embed(["x" * 100, "y"])).all()


@pytest.mark.parametrize("length", [31, 32, 40])
def test_prompts_longer_than_the_context(length: int) -> None:
    tight, cut = (Specialist(base("llama", max_length=32, truncate=t)) for t in (False, True))
    prompt = Prompt("z" * (length - 2) + "ab")
    if length + 2 <= 32:
        return
    with pytest.raises(UserError, match=rf"prompt 0: prompt of {length} tokens .* exceed the 32 .*truncate"):
        tight.score([prompt], [["c"]])
    with pytest.raises(UserError, match="prompt 0: prompt of"):
        tight.generate([prompt], max_new_tokens=5)
    kept = prompt.text()[-30:]
    torch.testing.assert_close(cut.score([prompt], [["c"]])[0], tight.score([Prompt(kept)], [["c"]])[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="answer of up to 32"):
        cut.generate([prompt], max_new_tokens=32)


# --- what is wrong -------------------------------------------------------------------------------------------------------
class Loud:
    """Would make a file if it were ever unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def refused(name: Any, message: str, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_base(name, device="cpu", **options)
    assert len(str(caught.value)) < 600


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "no such folder")
    refused("./absent", "no such folder")
    refused("model.bin", "no such folder")
    refused(tmp_path, "no readable config.json")
    refused("metier-hugr", "unknown embedded base 'metier-hugr'")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<!DOCTYPE html><html>", "an HTML page"), (b"\n <html>", "an HTML page"), (pickle.dumps({}), "a pickle"), (b"PK\x03\x04", "a pickle"),
     (b"abc", "a single file"), (b"", "a single file")],
)  # fmt: skip
def test_files_instead_of_folders(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    refused(tmp_path / "model.bin", f"this is {message}, not a model")


def test_pickled_weights_are_not_touched(tmp_path: Path) -> None:
    folder = written(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Loud(tmp_path / "ran")))
    refused(folder, r"no \*.safetensors .*pytorch_model.bin: pickled weights can run code and are refused")
    assert not (tmp_path / "ran").exists()


def test_no_weights(tmp_path: Path) -> None:
    folder = written(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    refused(folder, r"no \*.safetensors in")


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x00" * 100, None])
def test_damaged_weights(tmp_path: Path, content: bytes | None) -> None:
    file = written(tmp_path / "base") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    refused(tmp_path / "base", "weights (are damaged|cannot be loaded)")


def test_missing_tensors(tmp_path: Path) -> None:
    file = written(tmp_path / "base") / "model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "layers.1.mlp.up" not in k}, file, metadata={"format": "pt"})
    refused(tmp_path / "base", "1 tensors are missing from the weights, the first 'model.layers.1.mlp.up_proj.weight'")


def test_misshapen_tensors(tmp_path: Path) -> None:
    file = written(tmp_path / "base") / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    refused(tmp_path / "base", "weights cannot be loaded")


@pytest.mark.parametrize("content", ["", "{", "[]", "<html></html>", "{}", '{"model_type": "no-such-model"}'])
def test_damaged_configuration(tmp_path: Path, content: str) -> None:
    (written(tmp_path / "base") / "config.json").write_text(content)
    refused(tmp_path / "base", "config.json")


def test_missing_tokenizer(tmp_path: Path) -> None:
    model("llama").save_pretrained(tmp_path)
    refused(tmp_path, "tokenizer")


@pytest.mark.parametrize("content", ["", "{", "{}", "<html>"])
def test_damaged_tokenizer(tmp_path: Path, content: str) -> None:
    (written(tmp_path / "base") / "tokenizer.json").write_text(content)
    refused(tmp_path / "base", "tokenizer")


def test_remote_code_is_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    refused(folder, "base ")
    assert not (tmp_path / "ran").exists()


def test_wrong_options(tmp_path: Path) -> None:
    folder = written(tmp_path / "base")
    refused(folder, r"dtype: unknown value 'floot16'. Did you mean 'float16'", dtype="floot16")
    refused(folder, "no chat template", chat=True)
    refused(folder, "family: unknown value 'encoderr'. Did you mean 'encoder'", family="encoderr")
    shutil.rmtree(folder)
    refused(folder, "no such folder")


def test_every_architecture_says_its_family(tmp_path: Path) -> None:
    from metier.model.loading import _family

    for name in CAUSAL:
        assert _family(model(name).config, name) == "causal"
    for name in ENCODERS:
        assert _family(model(name).config, name) == "encoder"
