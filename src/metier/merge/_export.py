"""Export: a change as an adapter of peft's, written, loaded by peft, and verified."""

from __future__ import annotations

from pathlib import Path

from metier.delta import Checkpoint, Delta, Lazy
from metier.delta.place import vacant
from metier.merge import _verdict, _verify
from metier.merge._convert import save_peft, to_peft, with_peft
from metier.merge._work import Done, How, only_changed, size_of
from metier.model.loading import load_base


def export(delta: Delta, base: Checkpoint, out: Path, how: How) -> Done:
    """Write `delta` as a LoRA adapter. Raises UserError naming every tensor that has no place in one, before anything is written.

    It is verified on the base in float32, where nothing is rounded: an adapter lies beside its base, whatever that is loaded in.
    """
    out = vacant(out, how.force, [base.path])
    plain, delta = _verify.checkable(base.path), only_changed(delta)
    save_peft(to_peft(delta, plain, base), out)
    verdict = None
    if how.verify:
        found = with_peft(load_base(base.path, device="cpu"), out)
        exact = Lazy(base, lambda name: base[name].float() if base.dtype(name).is_floating_point else base[name])
        verdict = _verify.judged(plain, plain, _verify.model_of(plain, _verdict.composed(exact, delta)), found)
    _verdict.store(out, verdict, base=str(base.path.resolve()), fingerprint=delta.base)
    return Done(out, size_of(out), verdict)
