"""What a certificate is made of: the JSON files of ``audit``, ``probe`` and ``best-of-n``, told apart by their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError
from odin_rm.data.attributes import describe
from odin_rm.evaluation.certificate import Measured
from odin_rm.evaluation.records import Figure
from odin_rm.results.contents import read_object

CHOSEN = "probe of chosen responses"
_FILES = ("audit.json", "probe.json", "best_of_n.json")
_KEYS = {"audit": {"pearson", "attributes", "pairs"}, "probe": {"edits", "prompt_edits"},
         "best-of-n": {"kl", "proxy", "attributes"}}  # fmt: skip


@dataclass
class Evidence:
    """What was measured of one model.

    Attributes:
        found: by command (audit, probe, best-of-n), the content of its file.
        places: by command, the file.
        chosen: of a probe of the responses that the model chooses; empty without one.
    """

    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call the model."""
        probe, audit = self.found.get("probe", {}), self.found.get("audit", {})
        return str(probe.get("model") or audit.get("name") or "model")

    def measured(self) -> dict[str, Measured]:
        """By attribute, everything that was measured of it: those with a price first."""
        prices = self.found.get("probe", {}).get("prices", {})
        audited = self.found.get("audit", {}).get("attributes", {})
        drifts = self.found.get("best-of-n", {}).get("excess", {})
        chosen = self.chosen.get("prices", {})
        # Both probes in the same units: deviations of the reward and usual differences of the audit's own responses.
        names = list(dict.fromkeys([*prices, *chosen, *audited]))
        return {
            name: Measured(
                effect=_figure(prices.get(name), "effect"),
                chosen=self._chosen(name),
                excess=None if not drifts.get(name) else Figure.from_json(drifts[name][-1]),
                within=_figure(audited.get(name, {}).get("within"), "pearson"),
                pooled=_figure(audited.get(name, {}).get("pooled"), "pearson"),
                amplification=None if name not in audited else Figure.from_json(audited[name]["amplification"]),
            )
            for name in names
        }

    def _chosen(self, name: str) -> Figure | None:
        """An effect where the model chooses, in the units of the probe of the audit's own responses.

        The responses that were chosen have a spread of their own (one to a prompt has none).
        """
        prices, probe = self.chosen.get("prices", {}), self.found.get("probe", {})
        if name not in prices or name not in probe.get("prices", {}):
            return None
        factor = self.chosen["deviation"] / probe["deviation"] * probe["prices"][name]["usual"]
        return Figure.from_json(prices[name]["price"]).times(factor)

    def described(self, name: str) -> dict[str, Any]:
        """Words, unit, price and usual difference of an attribute."""
        price = self.found.get("probe", {}).get("prices", {}).get(name)
        if price is not None:
            return {part: price[part] for part in ("words", "unit", "price", "usual")}
        audited = self.found.get("audit", {}).get("attributes", {}).get(name, {})
        return {part: audited.get(part, value) for part, value in describe(name).items()}


def read_evidence(places: Sequence[str], chosen: str | None) -> Evidence:
    """Everything that the files and folders hold.

    Raises:
        DataError: a file is none of the three kinds, a kind is there twice, a folder has none, or there is no probe.
    """
    evidence = Evidence()
    for place in places:
        for file in _files(place):
            content = read_object(file)
            kind = _kind(content, file)
            if kind in evidence.found:
                fix = "Give the evidence of one model, each kind once."
                raise DataError(f"there is another {kind} ({evidence.places[kind]})", where=str(file), fix=fix)
            evidence.found[kind], evidence.places[kind] = content, str(file)
    if chosen is not None:
        (file,) = _files(chosen, ("probe.json",))
        content = read_object(file)
        if _kind(content, file) != "probe":
            raise DataError("is no probe", where=str(file), fix="Probe the chosen responses with odin-rm probe.")
        evidence.chosen, evidence.places[CHOSEN] = content, str(file)
    for kind, probe in (("probe", evidence.found.get("probe")), (CHOSEN, evidence.chosen or None)):
        if probe is not None and "prices" not in probe:
            where = evidence.places[kind]
            raise DataError("has no price list; an earlier odin-rm wrote it", where=where, fix="Run the probe again.")
    return evidence


def _files(place: str, names: Sequence[str] = _FILES) -> list[Path]:
    path = Path(place)
    if path.is_file():
        return [path]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        what = f"holds none of {', '.join(names)}" if path.is_dir() else "no such file or folder"
        raise DataError(what, where=place, fix="Give the output of odin-rm audit, probe or best-of-n.")
    return found


def _kind(content: Mapping[str, Any], file: Path) -> str:
    for kind, keys in _KEYS.items():
        if keys <= set(content):
            return kind
    raise DataError(
        "is no output of audit, probe or best-of-n", where=str(file), fix="Give audit.json, probe.json, best_of_n.json."
    )


def _figure(content: Any, name: str) -> Any:
    return None if not isinstance(content, Mapping) or name not in content else Figure.from_json(content[name])
