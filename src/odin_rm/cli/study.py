"""A local web page for blind side-by-side rating of two policies, and what its raters say."""

from __future__ import annotations

from typing import Any

from odin_rm.core.console import say
from odin_rm.serve.study.config import StudyConfig


def run(config: StudyConfig) -> None:
    """Serve until stopped, write and print the results."""
    from odin_rm.serve.study.run import serve, write_results
    from odin_rm.serve.study.store import StudyStore

    if config.results is not None:
        store = StudyStore(config.results)
    else:
        token = "#token=..." if config.token else ""
        store = serve(config, lambda store, address: announce(store, address + token))
        if not store.ratings():
            say(f"No rating yet. The same command goes on with the study in {config.output}.")
            return
    print_results(write_results(store, samples=config.bootstrap_samples))
    say(f"Written to {store.path.parent}; odin-rm win-rate reads its annotations.json")


def announce(store: Any, address: str) -> None:
    """What is going to be rated, and where."""
    study, rated = store.study, len(store.ratings())
    say(f"{study.a['generator']} against {study.b['generator']}: {len(study.pairs):,} of {study.prompts:,} prompts")
    if study.identical:
        say(f"  {study.identical:,} prompts have two equal answers and are not shown")
    if rated:
        say(f"  {rated:,} ratings so far")
    say(f"Rate at {address}")
    say("Ctrl-C ends it and writes the results; the same command goes on later.")


def print_results(content: dict[str, Any]) -> None:
    """Wins, win score, agreement, lengths."""
    say(
        f"{content['a']['generator']} against {content['b']['generator']}: {content['ratings']:,} ratings of "
        f"{content['rated']:,} prompts by {len(content['raters'])} rater{'s' * (len(content['raters']) > 1)}"
    )
    say(f"  {content['wins']:,} wins, {content['ties']:,} ties, {content['losses']:,} losses")
    say(f"  win score {_figure(content['win_score'], 1)}, win rate {_figure(content['win_rate'], 1)}")
    agreement = content["agreement"]
    if agreement["kappa"] is not None:
        name = "Cohen's" if agreement["method"] == "cohen" else "Fleiss'"
        kappa, observed = _figure(agreement["kappa"], 2), _figure(agreement["observed"], 2)
        say(f"  {name} kappa {kappa}, agreement {observed} on {agreement['prompts']:,} prompts")
    lengths = content["lengths"]
    say(f"  mean length {lengths['rated']['a']:,.0f} against {lengths['rated']['b']:,.0f} {lengths['unit']}")


def _figure(figure: dict[str, Any], digits: int) -> str:
    if figure["value"] is None:
        return "undefined"
    value = f"{figure['value']:.{digits}f}"
    return value if figure["low"] is None else f"{value} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"
