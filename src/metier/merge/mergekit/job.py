"""Job: a recipe's tensors, each traced to its models, merged by our merges, and written as one checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from metier import progress
from metier.delta import Checkpoint, Delta, Dense, Entry, Lazy, Merge, identity, merged, run, transformed
from metier.delta.checkpoint import EMBEDDINGS, has_rows
from metier.delta.difference import combined, difference
from metier.delta.parts import total
from metier.delta.parts.scale import at_depth, depth_of
from metier.delta.record import record
from metier.delta.shape import Shape
from metier.delta.stored import KINDS
from metier.errors import KeyMismatch, ShapeMismatch, UserError
from metier.merge import _verdict, _work
from metier.merge._experts import opened, weights_of
from metier.merge._heads import body_of
from metier.merge._kin import same_configuration, same_vocabulary
from metier.merge.mergekit import recipe as recipes
from metier.merge.mergekit.laid import Laid, beside, describe, laid_out, layers_of, relayered
from metier.merge.mergekit.recipe import Recipe, Slice
from metier.merge.mergekit.tokens import Vocabulary, resized, vocabulary
from metier.merge.mergekit.ways import Way, way

if TYPE_CHECKING:
    from torch import Tensor


class Model(NamedTuple):
    """A model named in a recipe: its files, and its weights by name (an adapter added to them)."""

    files: Checkpoint
    weights: Delta
    stamps: list[Any]


class Placed(NamedTuple):
    """A tensor of the result: the slice it is in, where in that slice's layers, and the models' own names of it."""

    part: Slice
    t: float
    names: Mapping[str, str]


def prepare(place: Path) -> Job:
    """The job of a recipe file: read, opened, and checked as far as it can be without reading weights."""
    recipe = recipes.read(place)
    models = {name: _opened(name) for name in recipe.models}
    job = Job(place, recipe, models)
    job.check()
    return job


class Job:
    """A recipe and its models, opened."""

    def __init__(self, place: Path, recipe: Recipe, models: Mapping[str, Model]) -> None:
        self.place, self.recipe, self.models = place, recipe, models
        self._merged: dict[Way, Delta] = {}

    @cached_property
    def reference(self) -> str:
        """The model whose configuration and layout the result has: the base, or the first one."""
        return self.recipe.base or self.recipe.slices[0].sources[0].model

    @cached_property
    def files(self) -> Checkpoint:
        """The reference's."""
        return self.models[self.reference].files

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The result's vocabulary, where the recipe asks for one."""
        source = self.recipe.tokenizer
        places = {m: model.files.path for m, model in self.models.items()}
        return vocabulary(source, self.recipe.models, places, self.reference, self.recipe.multiple) if source else None

    @cached_property
    def tensors(self) -> dict[str, Placed]:
        """Every tensor of the result, in order."""
        names = list(self.files)
        parts = self.recipe.slices
        found: dict[str, Placed] = {}
        for name in (n for n in names if depth_of(n) is None):
            first = name.endswith((*EMBEDDINGS, "shared.weight")) or "embeddings." in name
            part = parts[0] if first else parts[-1]
            found[name] = Placed(part, 0.0 if first else 1.0, {s.model: name for s in part.sources} | {self.reference: name})
        at = 0
        for part in parts:
            count = self._count(part)
            for i in range(count):
                found |= self._layer(names, part, at, i, count)
                at += 1
        return found

    @cached_property
    def ways(self) -> dict[str, Way]:
        """How each tensor is merged."""
        return {n: way(self.recipe, p.part, self._experts(p.part), n, p.t) for n, p in self.tensors.items() if self._floats(n)}

    def check(self) -> None:
        """Raises UserError, KeyMismatch or ShapeMismatch, naming tensor and file, where the models do not fit each other."""
        for source in (s for part in self.recipe.slices for s in part.sources if s.layers):
            files = self.models[source.model].files
            if source.layers and source.layers[1] > (there := layers_of(files)):
                raise KeyMismatch(f"{files.path}: has {there} layers; the recipe's layer_range {list(source.layers)} ends after them.")
        if unmatched := self.recipe.unmatched(self.tensors):
            progress.say(f"warning    {self.place}: no tensor's name contains the filter of {', '.join(unmatched)}: it has no effect.")
        for one in dict.fromkeys(self.ways.values()):
            one.merges()
        known = {at_depth(n, 0) for n in self.files}
        for model, opened_model in self.models.items():
            files = opened_model.files
            if self.files.config.get("architectures") != files.config.get("architectures"):
                raise KeyMismatch(
                    f"{files.path}: is a {files.config.get('architectures')}, {self.files.path} a {self.files.config.get('architectures')}."
                )
            if extra := [n for n in files if at_depth(n, 0) not in known]:
                raise KeyMismatch(f"{files.where[extra[0]].path}: has '{extra[0]}', which {self.files.path} lacks.")
            for name, placed in self.tensors.items():
                if model in placed.names:
                    self._check_tensor(name, model, placed.names[model])
            same_configuration(self.files.path, files.path, layers=not self.recipe.by_layers)
        if not self.recipe.tokenizer:
            same_vocabulary(*(m.files.path for m in self.models.values()))

    def plan(self, out: Path) -> dict[str, Any]:
        """What a run would read, write and take."""
        places = [str(m.files.path) for n, m in self.models.items() if n != self.reference]
        laid = self._laid(self.files.path)
        return _work.plan(self.files, places, out, bytes_out=laid.bytes()) | {
            "tensors": len(laid), "shards": [s.path.name for s in laid.shards], "method": self.recipe.method,
        }  # fmt: skip

    def run(self, out: Path, how: _work.How) -> _work.Done:
        """Write the result, load it again, and compare it with the same merge in memory."""
        verified = _work.checking(self.files) if how.verify else None
        weights = Delta(
            Lazy([n for n in self.tensors if self._floats(n)], self.weights, self._shape),
            provenance=record("merge", method="mergekit", settings={"recipe": self.place.name}),
        )
        self._must_change(weights)
        recipe = {"mergekit": self.place.read_text(encoding="utf-8"), "method": self.recipe.method}
        with tempfile.TemporaryDirectory() as staged:
            laid = self._laid(Path(staged))
            self._stage(Path(staged), laid)
            whole = Merge(identity(), total, identity(), weights="full")
            with _work.watching(out, laid.bytes(), f"writing {out.name}"):
                run(whole, cast(Checkpoint, laid), [weights], out, recipe=recipe, **how.written())
        verdict = verified(out, _verdict.replaced(cast(Checkpoint, laid), weights)) if verified is not None else None
        _verdict.store(out, verdict)
        return _work.Done(out, _work.size_of(out), verdict, {"tensors": len(laid), "method": self.recipe.method})

    def weights(self, name: str) -> Entry:
        """A tensor of the result, computed when it is read."""
        one = self.ways[name]
        if one not in self._merged:
            self._merged[one] = self._group(one)
        found = self._merged[one][name]
        return found if _full(one) else combined(found, self._entry(self._base(), name), 1.0)

    def _group(self, one: Way) -> Delta:
        """The merge of all tensors of one way."""
        names = [n for n, w in self.ways.items() if w == one]
        merges = one.merges()
        experts = [Delta(Lazy(names, partial(self._expert, model, one)), key=str(i)) for i, model in enumerate(one.models)]
        merge = merges[0]
        if len(set(one.own)) > 1:
            experts = [transformed(m.each, e) for m, e in zip(merges, experts, strict=True)]
            merge = merge._replace(each=identity())
        return merged(merge, experts, coefs=one.coefs)

    def _expert(self, model: str, one: Way, name: str) -> Entry:
        entry = self._entry(model, name)
        return entry if _full(one) else difference(self._entry(self._base(), name), entry)

    def _entry(self, model: str, name: str) -> Entry:
        """A model's weights for a tensor of the result; embeddings with the result's rows."""
        own = self._own_name(model, name)
        words = self.vocabulary
        if words is None or not has_rows(name):
            return self.models[model].weights[own]
        rows = {m: self.models[m].weights[self._own_name(m, name)].dense() for m in self.tensors[name].names}
        return Dense(resized(name, model, self.reference, words, rows))

    def _own_name(self, model: str, name: str) -> str:
        """The model's name of a tensor; a base that is no source of the slice has the layers of the first source."""
        placed = self.tensors[name]
        return placed.names.get(model) or placed.names[placed.part.sources[0].model]

    def _experts(self, part: Slice) -> list[str]:
        """The models that are merged, in order; for slerp and arcee_fusion the base comes first."""
        named, base, method = [s.model for s in part.sources], self.recipe.base, self.recipe.method
        if base is None or method in ("linear", "karcher", "passthrough"):
            return named
        others = [m for m in named if m != base]
        return [base, *others] if method in ("slerp", "arcee_fusion") else others

    def _base(self) -> str:
        return self.recipe.base or self.reference

    def _floats(self, name: str) -> bool:
        return self.files.floating(self._own_name(self.reference, name))

    def _count(self, part: Slice) -> int:
        layers = part.sources[0].layers
        return layers[1] - layers[0] if layers else layers_of(self.files)

    def _layer(self, names: list[str], part: Slice, at: int, i: int, count: int) -> dict[str, Placed]:
        """The tensors of one layer of the result. at: its number there; i: its number in the slice."""
        first = (part.sources[0].layers or (0, 0))[0] + i
        own = {s.model: (s.layers or (0, 0))[0] + i for s in part.sources}
        found = {}
        for name in (n for n in names if depth_of(n) == _like(names, first)):
            t = i / (count - 1) if count > 1 else 1.0
            found[at_depth(name, at)] = Placed(part, t, {m: at_depth(name, layer) for m, layer in own.items()})
        return found

    def _check_tensor(self, name: str, model: str, own: str) -> None:
        files = self.models[model].files
        if own not in files:
            raise KeyMismatch(f"{files.path}: has no '{own}', which the recipe takes for '{name}'.")
        ours = self._own_name(self.reference, name)
        shape, wanted = tuple(files.shape(own)), tuple(self.files.shape(ours))
        if self.vocabulary is not None and has_rows(name):
            shape, wanted = shape[1:], wanted[1:]
        if shape != wanted:
            hint = " Say tokenizer_source: union (or base)." if has_rows(name) else ""
            where = files.where[own].path if own in files.where else files.path
            raise ShapeMismatch(f"{where}: '{own}' has shape {list(shape)}, {list(wanted)} in {self.files.path}.{hint}")

    def _must_change(self, weights: Delta) -> None:
        """Raises UserError where the result is the base bit for bit (a passthrough of the same layers may be)."""
        files = self.models[self._base()].files
        if self.recipe.method == "passthrough" or set(self.tensors) != set(files) or self.recipe.base is None:
            return
        change = weights.map(lambda name, entry: difference(self._entry(self._base(), name), entry))
        old: Mapping[str, Tensor] = files
        if self.vocabulary is not None:
            old = {n: self._entry(self._base(), n).dense().to(files.dtype(n)) if has_rows(n) else files[n] for n in weights}
        if not _verdict.changes(old, change):
            raise UserError(f"{self.place}: the result would be the base, bit for bit: no change reaches it.")

    def _laid(self, folder: Path) -> Laid:
        files, found = self.files, []
        for name in self.tensors:
            own = self._own_name(self.reference, name)
            kind = KINDS[self.recipe.dtype] if self.recipe.dtype and self._floats(name) else files.facts(own).kind
            found.append((name, kind, tuple(self._shape(name))))
        whole = {n: files[self._own_name(self.reference, n)] for n in self.tensors if not self._floats(n)}
        return laid_out(folder, found, whole, [m.stamps for m in self.models.values()])

    def _shape(self, name: str) -> Shape:
        """The shape of a tensor of the result."""
        shape = self.files.shape(self._own_name(self.reference, name))
        rows = self.vocabulary.rows if self.vocabulary is not None and has_rows(name) else None
        return shape if rows is None else Shape((rows, *shape[1:]))

    def _stage(self, folder: Path, laid: Laid) -> None:
        """What lies beside the weights: configuration, index, tokenizer."""
        words = self.vocabulary
        beside(self.files.path, folder, tokenizer=words is None)
        config = dict(self.files.config)
        if self.recipe.dtype:
            config["dtype" if "dtype" in config else "torch_dtype"] = self.recipe.dtype
        if self.recipe.by_layers:
            taken = [i for part in self.recipe.slices for i in range(*(part.sources[0].layers or (0, self._count(part))))]
            config |= relayered(config, taken)
        if words is not None:
            config["vocab_size"] = words.rows
            words.tokenizer.save_pretrained(str(folder))
        describe(folder, config, laid)


def _opened(name: str) -> Model:
    """A model, 'folder' or 'folder+adapter'."""
    place, _, lora = name.partition("+") if not Path(name).expanduser().exists() else (name, "", "")
    if not Path(place).expanduser().is_dir():
        raise UserError(f"model {place}: no such folder. Download the model first, and write its folder in the recipe.")
    files = Checkpoint(place).plain()
    change = body_of(opened(lora, files), files, lora).delta if lora else Delta({})
    return Model(files, weights_of(change, files), [files.stamp(), change.record])


@cache
def _full(one: Way) -> bool:
    return one.merges()[0].weights == "full"


def _like(names: list[str], layer: int) -> int:
    """The layer of the reference whose names stand for a layer that only another model has: itself, or the last one there is."""
    return min(layer, max((d for n in names if (d := depth_of(n)) is not None), default=layer))
