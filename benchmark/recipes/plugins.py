"""Discovery of methods: folders with a ``method.yaml`` in the project, beside an experiment, or installed."""

import importlib
import importlib.metadata
import importlib.util
import sys
import types
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.loading import RecipeError, parse, parse_settings, read_yaml
from benchmark.recipes.models import Method, TestSettings
from benchmark.recipes.project import folders_of, shown

MANIFEST = "method.yaml"
ENTRY_POINTS = "longtail.methods"
_ANY_DETECTOR = {"architecture": "mask_rcnn", "backbone": "resnet50"}  # keys that every preset has


@dataclass(frozen=True)
class Plugin:
    """A method's folder. The manifest is read on first use, so a broken one only affects recipes that use
    it."""

    name: str
    folder: Path
    problem: str | None = None

    @property
    def manifest(self) -> str:
        """The manifest's path for messages."""
        return shown(self.folder / MANIFEST)

    @cached_property
    def method(self) -> Method:
        """The checked manifest; raises ``RecipeError`` naming the file."""
        if self.problem is not None:
            raise RecipeError(self.problem)
        method = parse(Method, read_yaml(self.folder / MANIFEST), self.manifest)
        if method.name != self.name:
            raise RecipeError(
                "a method has the name of its folder",
                where=f"{self.manifest}, name",
                found=method.name,
                expected=self.name,
                remedy="rename one of the two",
            )
        _check_method(method, self.manifest)
        return method


def find_plugins(folders: list[Path]) -> dict[str, Plugin]:
    """Every plug-in by name: those of ``methods/``, ``folders``, and installed ones (entry points).

    If two places have a method of the same name, using it is an error that names both. Raises ``RecipeError``
    if one of ``folders`` does not exist.
    """
    found: dict[str, list[Plugin]] = {}
    for folder in (*folders_of("methods"), *folders):
        if not folder.is_dir():
            raise RecipeError("no such folder of methods", where=folder, remedy="correct method_paths")
        for manifest in sorted([*folder.glob(MANIFEST), *folder.glob(f"*/{MANIFEST}")]):
            found.setdefault(manifest.parent.name, []).append(Plugin(manifest.parent.name, manifest.parent))
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        found.setdefault(entry.name, []).append(_installed(entry))
    return {name: _unique(name, plugins) for name, plugins in sorted(found.items())}


def load_object(spec: str, plugin_path: str) -> Any:
    """The class or function ``module:name`` of a plug-in.

    A module in the plug-in's folder is loaded from there, whether or not that folder is importable; any other
    module is imported as usual. Raises ``RecipeError`` naming the spec and the cause.
    """
    module_name, _, name = spec.partition(":")
    folder = Path(plugin_path)
    try:
        module = _import(module_name, folder)
    except ImportError as error:
        raise RecipeError(
            f"cannot import '{module_name}'",
            where=f"{shown(folder / MANIFEST)}: {spec}",
            found=f"{type(error).__name__}: {error}",
            remedy="correct the module's name, or install what it imports",
        ) from error
    except Exception as error:
        raise RecipeError(
            f"'{module_name}' fails on import", where=folder, found=f"{type(error).__name__}: {error}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        known = ", ".join(sorted(key for key in vars(module) if not key.startswith("_")))
        raise RecipeError(
            f"'{module_name}' has no '{name}'", where=module.__file__, expected=f"one of: {known}"
        ) from None


def _import(module_name: str, folder: Path) -> types.ModuleType:
    inner = module_name.removeprefix(f"{folder.parent.name}.{folder.name}.")
    path = folder.joinpath(*inner.split("."))
    if not (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()):
        return importlib.import_module(module_name)
    try:  # the ordinary module name if it refers to this file, so that it is loaded only once
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        spec = None
    if (
        spec is not None
        and spec.origin is not None
        and Path(spec.origin).resolve().is_relative_to(folder.resolve())
    ):
        return importlib.import_module(module_name)
    package = f"longtail_plugin_{folder.name}_{sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
    if package not in sys.modules:  # a package for the folder, so that its modules can import one another
        sys.modules[package] = types.ModuleType(package)
        setattr(sys.modules[package], "__path__", [str(folder)])  # noqa: B010
    return importlib.import_module(f"{package}.{inner}")


def _installed(entry: importlib.metadata.EntryPoint) -> Plugin:
    """The plug-in of an entry point, which is a folder or a package with a manifest beside its code."""
    where = f"entry point '{entry.name}' of {entry.dist.name if entry.dist else 'a package'} ({entry.value})"
    try:
        target = entry.load()
    except Exception as error:
        return Plugin(
            entry.name, Path(entry.value), f"the method's {where} fails: {type(error).__name__}: {error}"
        )
    folder = (
        Path(target.__file__).parent if isinstance(target, types.ModuleType) and target.__file__ else target
    )
    if not isinstance(folder, str | Path) or not (Path(folder) / MANIFEST).is_file():
        return Plugin(entry.name, Path(entry.value), f"the method's {where} names no folder with {MANIFEST}")
    return Plugin(entry.name, Path(folder).resolve())


def _unique(name: str, plugins: list[Plugin]) -> Plugin:
    first, *others = plugins
    for other in others:
        if other.folder.resolve() != first.folder.resolve():
            problem = (
                f"two methods are named '{name}': {shown(first.folder)} and {shown(other.folder)}; rename one"
            )
            return Plugin(name, first.folder, problem)
    return first


def _check_method(method: Method, where: str) -> None:
    """Check what the model cannot: settings that are merged later, and the order of stages."""
    parse_settings(DetectorSettings, method.detector, f"{where}, detector", **_ANY_DETECTOR)
    lists = {"stages": method.stages}
    for name, variant in method.variants.items():
        place = f"{where}, variants.{name}"
        parse_settings(
            DetectorSettings,
            variant.detector,
            f"{place}.detector",
            architecture="mask_rcnn",
            backbone="resnet50",
        )
        parse_settings(TestSettings, variant.test, f"{place}.test")
        if variant.stages is not None:
            lists[f"variants.{name}.stages"] = variant.stages
    for place, stages in lists.items():
        names = [stage.name for stage in stages]
        problem = None
        if len(set(names)) < len(names) or "predict" in names:
            problem = "stages need different names, and 'predict' is taken"
        elif any(stage.from_ for stage in stages[1:]):
            problem = "only the first stage can take another method's checkpoint (from)"
        elif stages[-1].from_ is not None:
            problem = "a method needs a stage of its own after 'from'"
        if problem is not None:
            raise RecipeError(problem, where=f"{where}, {place}", found=", ".join(names))
