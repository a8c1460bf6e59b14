"""The flags of ``odin-rm reward`` that belong to objectives, made from the table of objectives."""

from __future__ import annotations

import dataclasses
import typing
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import flag_of
from odin_rm.objectives.registry import OBJECTIVES, ObjectiveSpec, check_idle

GROUP = "objective"

Field = dataclasses.Field[Any]


def _owned() -> dict[str, dict[str, Field]]:
    """Each option's name, with the objectives that have it and their field of it."""
    found: dict[str, dict[str, Field]] = {}
    for name, spec in OBJECTIVES.items():
        for item in dataclasses.fields(spec.settings):
            found.setdefault(item.name, {})[name] = item
    return found


def _flag(name: str, owners: dict[str, Field]) -> tuple[str, Any, Any]:
    """One option of all objectives that have it, as a field of a config."""
    first = next(iter(owners.values()))
    hint = typing.get_type_hints(OBJECTIVES[next(iter(owners))].settings)[name]
    defaults = {owner: item.default for owner, item in owners.items()}
    metadata = dict(first.metadata) | {"group": GROUP}
    default = first.default
    if len(set(defaults.values())) > 1 or "elsewhere" in metadata:
        words = [f"{value:g} for {owner}" for owner, value in defaults.items()]
        metadata["help"] += f" Default {', '.join(words)}."
        default, hint = None, hint | None
    if len(owners) < len(OBJECTIVES):
        metadata["help"] += f" With --objective {' or '.join(owners)} only."
    return name, hint, dataclasses.field(default=default, metadata=metadata)


if TYPE_CHECKING:

    @dataclasses.dataclass
    class ObjectiveOptions:
        """The options of all objectives, to inherit from."""

else:
    ObjectiveOptions = dataclasses.make_dataclass(
        "ObjectiveOptions",
        [_flag(name, owners) for name, owners in _owned().items()],
        namespace={"__doc__": "The options of all objectives, to inherit from.", "__module__": __name__},
    )


def foreign_options(objective: str) -> list[str]:
    """Names of the options that other objectives have and this one has not."""
    own = OBJECTIVES[objective].options
    return [item.name for item in dataclasses.fields(ObjectiveOptions) if item.name not in own]


def settle_objective(config: Any) -> ObjectiveSpec:
    """Fill in what an objective decides of its config's options, and refuse those of another objective.

    Args:
        config: has :class:`ObjectiveOptions` and ``objective``; options that were not given get their defaults.

    Raises:
        ConfigError: there is no such objective, or an option would do nothing.
    """
    if config.objective not in OBJECTIVES:
        words = f"must be one of {', '.join(OBJECTIVES)}, it is {config.objective!r}"
        raise ConfigError(words, where="--objective")
    spec = OBJECTIVES[config.objective]
    defaults = {item.name: item.default for item in dataclasses.fields(spec.settings)}
    for item in dataclasses.fields(ObjectiveOptions):
        value, elsewhere = getattr(config, item.name), item.metadata.get("elsewhere")
        if item.name in defaults:
            if value is None:
                setattr(config, item.name, defaults[item.name])
        elif value is None:
            setattr(config, item.name, elsewhere)
        elif value not in (item.default, elsewhere):
            raise _foreign(item, config.objective)
    check_idle(objective_settings(config))
    return spec


def _foreign(item: Field, objective: str) -> ConfigError:
    owners = [name for name, spec in OBJECTIVES.items() if item.name in spec.options]
    what = f"has no effect with --objective {objective}"
    if "needs" in item.metadata:
        what = f"needs {item.metadata['needs']}"
    return ConfigError(what, where=f"--{flag_of(item)}", fix=f"Use --objective {' or '.join(owners)}.")


def objective_settings(config: Any) -> Any:
    """The settings record of a config's objective."""
    spec = OBJECTIVES[config.objective]
    return spec.settings(**{name: getattr(config, name) for name in spec.options})
