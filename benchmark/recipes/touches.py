"""The part of a plain detector that a method changes, by which tables can be grouped."""

from typing import Literal, get_args

from benchmark.recipes.models import Method, Variant

Touched = Literal["baseline", "loss", "decoupled", "post-hoc", "sampler"]
TOUCHED: tuple[Touched, ...] = get_args(Touched)
"""In the order of the groups."""


def touched(method: Method, variant: Variant) -> Touched:
    """What a method in one of its variants (``Variant()``: its main form) changes.

    This follows from the stages: ``decoupled`` trains the classifier after the rest, ``post-hoc`` changes a
    trained model without training. Otherwise all parameters train: with another ``loss``; or with plain
    softmax, which is the ``baseline``, or a ``sampler`` if the images are not simply shuffled. A variant that
    only changes how the trained model of its own method is tested is in the group of that method.
    """
    stages = variant.stages or method.stages
    base = stages[0].from_
    own = [stage for stage in stages if stage.from_ is None]
    whole = [stage for stage in own if stage.kind == "train" and stage.trainable == "all"]
    after = own[own.index(whole[-1]) + 1 :] if whole else own
    if any(stage.kind == "train" for stage in after):
        return "decoupled"
    if after:
        name, _, form = (base or "").partition("+")
        if name == method.name and not whole:
            return touched(method, method.variants[form] if form else Variant())
        return "post-hoc"
    if method.own_loss:
        return "loss"
    sampler = variant.sampler or method.sampler
    drawn = any((stage.sampler or sampler).kind != "uniform" or stage.annotations for stage in whole)
    return "sampler" if drawn else "baseline"
