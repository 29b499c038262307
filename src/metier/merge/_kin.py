"""Kin: whether what is put together speaks of the same weights: configurations, vocabularies, and the base that an adapter names.

All of it is read from the JSON beside the weights. Equal files are not parsed, so models with one tokenizer cost milliseconds.
"""

from __future__ import annotations

import contextlib
import filecmp
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier import progress
from metier.delta import Checkpoint
from metier.errors import BaseMismatch, UserError
from metier.lazy import torch
from metier.merge._adapter import CONFIG, config_of

if TYPE_CHECKING:
    from torch import Tensor

    from metier.model import Base

LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
MEANT = (  # sums of weights mean nothing where these differ
    "num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads", "num_key_value_heads",
    "num_kv_heads", "head_dim", "d_kv", "hidden_act", "hidden_activation", "activation_function", "dense_act_fn", "feed_forward_proj",
    "position_embedding_type",
)  # fmt: skip
FELT = (  # each model was tuned with its own; the result has the base's
    "rope_theta", "rope_local_base_freq", "partial_rotary_factor", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps",
    "sliding_window", "num_experts_per_tok",
)  # fmt: skip
WORDS = ("tokenizer.json", "vocab.json", "vocab.txt")
ADDED = "added_tokens.json"
SPARE = re.compile(r"reserved|unused|placeholder|extra_id|dummy", re.IGNORECASE)  # tokens that tuned models give a name of their own
SHOWN = 3


def alike(base: Checkpoint | Base, place: Path) -> None:
    """Raises UserError or BaseMismatch where the model or adapter in `place` cannot be a change of `base`; warns of what may be meant.

    What one of the two folders lacks (a configuration, a tokenizer) is not compared.
    """
    if str(base.path):  # a base that was made in memory has none
        same_configuration(Path(base.path), place)
    same_vocabulary(base.path, place)
    if (place / CONFIG).is_file():
        of_named_base(place, base)


def same_configuration(base: Path, place: Path, *, layers: bool = True) -> None:
    """Raises UserError naming files, field and values where weights mean something else; warns where a model computes a little otherwise.

    layers: whether both must have as many (not where a recipe takes layers by their number)
    """
    ours, theirs = _configuration(base), _configuration(place)
    for field in (f for f in theirs if f in ours):
        last, here, there = field.rsplit(".", 1)[-1], theirs[field], ours[field]
        files = f"{place / 'config.json'}: {field} is {here!r}, in {base / 'config.json'} {there!r}"
        if last in MEANT or (layers and last in LAYERS):
            if None not in (here, there) and _named_alike(here) != _named_alike(there):
                raise UserError(f"{files}. Such weights mean different things and cannot be added. Was it made from another base?")
        elif last in FELT and here != there:
            progress.say(f"warning    {files}. The result computes as the base does.")


def same_vocabulary(*folders: str | Path) -> None:
    """Raises UserError naming files and tokens where two of the models give a token different ids, or an id different tokens.

    Tokens that only some have, at ids that nobody else uses or where others keep a reserved token, are no difference.
    """
    different: list[tuple[Path, ...]] = []
    for files in filter(None, (_word_files(Path(f).expanduser()) for f in folders if str(f))):
        if not any(_equal(files, known) for known in different):
            different.append(files)
    if len(different) < 2:
        return
    ids: dict[str, tuple[int, Path]] = {}
    tokens: dict[int, tuple[str, Path]] = {}
    for files in different:
        found = _vocabulary(files, tuple(f.stat().st_mtime_ns for f in files))
        if clashes := [t for t, i in found.items() if (ids[t][0] != i if t in ids else i in tokens and not _spare(t, tokens[i][0]))]:
            raise UserError(_clash(files[0], found, clashes, ids, tokens))
        for text, i in found.items():
            ids.setdefault(text, (i, files[0]))
            if i not in tokens or SPARE.search(tokens[i][0]):
                tokens[i] = (text, files[0])


def of_named_base(place: Path, base: Checkpoint | Base) -> bool:
    """Whether the base that an adapter names is at hand as `base`; False where it cannot be found. Raises BaseMismatch where it is another."""
    name = named_base(place)
    if (folder := _folder(name)) is None:
        return bool(name) and not isinstance(base, Checkpoint) and name == base.name
    if folder.resolve() == Path(base.path).resolve():
        return True
    if isinstance(base, Checkpoint):
        if (differs := _first_difference(Checkpoint(folder), base)) is None:
            return True
        what = f"'{differs}' differs"
    else:
        named = Checkpoint(folder)
        if base.fingerprint == named.fingerprint() or base.fingerprint in as_loaded(named):
            return True
        what = "their fingerprints differ"
    raise BaseMismatch(
        f"{place / CONFIG}: was tuned on the base {name}, which is not {base.path}: {what}. Give that base, or carry the adapter over: "
        f"metier tune portllm TASK --base {base.path} --experts {place} --allow-base {name}. "
        "Where that file is wrong, correct its base_model_name_or_path."
    )


def named_base(place: Path) -> str:
    """The base that an adapter says it was tuned on; '' where it says none."""
    return str(config_of(place).get("base_model_name_or_path") or "")


def as_loaded(base: Checkpoint) -> Iterator[str]:
    """Fingerprints of the base loaded in each type, where it can be loaded as a model."""
    from metier.model.loading import DTYPES, load_base

    for dtype in DTYPES:
        with contextlib.suppress(UserError):
            yield load_base(base.path, dtype=dtype, device="cpu").fingerprint


def _configuration(folder: Path) -> dict[str, Any]:
    """field -> value, those of nested models under dotted names."""
    found = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    facts = dict(_flat(found, ""))
    if found.get("use_sliding_window") is False:
        facts.pop("sliding_window", None)
    return facts


def _flat(found: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if isinstance(value, dict) and (key == "rope_parameters" or key.endswith(("_config", "_attention"))):
            yield from _flat(value, prefix if key == "rope_parameters" else f"{prefix}{key}.")
        elif not isinstance(value, dict | list):
            yield prefix + key, value


def _named_alike(value: Any) -> Any:
    """The value under one name: 'swish' is 'silu', and the ways to compute gelu differ by less than rounding to bfloat16."""
    return "gelu" if str(value).startswith("gelu") else {"swish": "silu"}.get(str(value), value)


def _word_files(folder: Path) -> tuple[Path, ...]:
    """The files that say which token has which id; none where there is no vocabulary to be read."""
    first = next((folder / n for n in WORDS if (folder / n).is_file()), None)
    if first is None:
        return ()
    more = folder / ADDED
    return (first, more) if first.name != WORDS[0] and more.is_file() else (first,)


def _equal(a: tuple[Path, ...], b: tuple[Path, ...]) -> bool:
    return len(a) == len(b) and all(x.name == y.name and filecmp.cmp(x, y, shallow=False) for x, y in zip(a, b, strict=True))


@functools.lru_cache(8)
def _vocabulary(files: tuple[Path, ...], stamp: tuple[int, ...]) -> dict[str, int]:
    """token -> id. stamp: when the files were changed, so that a changed one is read again."""
    first = files[0]
    if first.suffix == ".txt":
        return {text: i for i, text in enumerate(first.read_text(encoding="utf-8").splitlines())} | _added(files)
    found = _json(first)
    try:
        if first.name != WORDS[0]:
            return {str(t): int(i) for t, i in found.items()} | _added(files)
        words = found["model"].get("vocab", {})
        ids = {str(t): int(i) for t, i in words.items()} if isinstance(words, dict) else {str(w[0]): i for i, w in enumerate(words)}
        return {str(t["content"]): int(t["id"]) for t in found.get("added_tokens", [])} | ids
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{first}: its vocabulary cannot be read ({error!r}). The file is damaged; copy it again.") from error


def _added(files: tuple[Path, ...]) -> dict[str, int]:
    return {str(t): int(i) for file in files[1:] for t, i in _json(file).items()}


def _spare(*texts: str) -> bool:
    return any(map(SPARE.search, texts))


def _clash(
    file: Path, found: Mapping[str, int], clashes: list[str], ids: Mapping[str, tuple[int, Path]], tokens: Mapping[int, tuple[str, Path]]
) -> str:
    said, other = [], file
    for text in clashes[:SHOWN]:
        there, other = ids[text] if text in ids else tokens[found[text]]
        said.append(f"{text!r} is {found[text]}, there {there}" if text in ids else f"{found[text]} is {text!r}, there {there!r}")
    more = f" and {len(clashes) - SHOWN} more" if len(clashes) > SHOWN else ""
    return (
        f"{file}: another vocabulary than {other}: {'; '.join(said)}{more}. Rows of embeddings would be those of other tokens. Merge by a recipe "
        "of mergekit's with tokenizer_source, or move the rows by metier tune portllm --allow-base OLD --remap tokens."
    )


def _json(place: Path) -> Any:
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: cannot be read ({error}). Copy the file again.") from error


def _folder(name: str) -> Path | None:
    """The folder of a base by its name, where it is on this machine and can be read."""
    if name.startswith("metier-") or name == "minilm":
        from metier.model.loading import described

        with contextlib.suppress(UserError):  # not installed here
            return Path(described(name)[0])
    folder = Path(name).expanduser()
    return folder if name and folder.is_dir() and any(folder.glob("*.safetensors")) else None


def _first_difference(named: Checkpoint, base: Checkpoint) -> str | None:
    """The first tensor that two bases do not share, but for their types; None where all are the same. The smallest are compared first."""
    if [s.path.resolve() for s in named.shards] == [s.path.resolve() for s in base.shards]:
        return None
    if lacking := sorted(set(named.where) ^ set(base.where)):
        return lacking[0]
    names = sorted(base.where, key=lambda n: base.shape(n).numel())
    wrong = (n for n in names if named.shape(n) != base.shape(n))
    return next(wrong, None) or next((n for n in names if not _rounded_alike(named[n], base[n])), None)


def _rounded_alike(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.to(b.dtype), b) or torch.equal(b.to(a.dtype), a)
