"""The dial on rewards that somebody stored: how much is paid for length alone is taken off, and no more."""

import random

from testbed_files import make_files

from odin_rm.core.files import RowWriter
from odin_rm.workflows.calibrate.config import CalibrateConfig
from odin_rm.workflows.calibrate.run import run_calibrate

folder = make_files()

# A judge whose scores rise with the root of length. Half of that is right: its longer answers say more.
generator = random.Random(0)
with RowWriter(folder / "scores.jsonl") as rows, RowWriter(folder / "twins.jsonl") as twins:
    for prompt in range(150):
        for _ in range(4):
            words = generator.randint(20, 400)
            score = 0.8 * (words**0.5) / 5 + generator.gauss(0, 1)
            rows.write({"prompt_id": str(prompt), "score": score, "attributes": {"words": words}})
        # The same content, tersely and wordily: here it is paid half as much.
        short = generator.randint(20, 200)
        for words in (short, 2 * short):
            score = 0.4 * (words**0.5) / 5 + generator.gauss(0, 0.3)
            twins.write({"prompt_id": f"twin {prompt}", "score": score, "attributes": {"words": words}})

(content,) = run_calibrate(
    CalibrateConfig(
        scores=str(folder / "scores.jsonl"),
        twins=str(folder / "twins.jsonl"),
        anchor="twins",
        output=str(folder / "calibrated"),
        overwrite_output=True,
    )
).values()
kappa = content["kappa"]
print(f"kappa {kappa['value']:.2f} ({kappa['low']:.2f} to {kappa['high']:.2f})")
for name, figures in content["held_out"]["methods"].items():
    won, within = figures["more_wins"]["all"]["value"], figures["within"]["value"]
    print(f"{name:<8} the longer twin wins {won:.2f}, correlation within prompts {within:+.2f}")
print(f"The calibrated scores: {folder / 'calibrated' / 'scores.jsonl'}")
