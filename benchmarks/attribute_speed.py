"""Speed of the attributes: responses a second of one core, all 20 that are measured by default.

    OMP_NUM_THREADS=1 python benchmarks/attribute_speed.py [FILE ...]

Each FILE holds preference rows (``chosen``, ``rejected``) or rows with ``responses``. Without one, generated texts of
about 250 words with markdown are measured. The best of five rounds is printed, in CPU seconds of the process.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from odin_rm.core.files import read_rows
from odin_rm.data.attributes import ATTRIBUTES, DEFAULT, measure_texts

ROUNDS = 5


def made_texts(count: int, seed: int = 0) -> list[str]:
    """Random words in paragraphs with headers, lists and bold."""
    rng = np.random.default_rng(seed)
    vocabulary = ["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 10))) for _ in range(3000)]
    texts = []
    for _ in range(count):
        words = rng.choice(vocabulary, rng.integers(50, 450)).tolist()
        parts = [" ".join(words[k : k + 40]) + "." for k in range(0, len(words), 40)]
        texts.append(
            "\n\n".join(f"## Part\n\n- **{part[:9]}** {part}" if k % 3 else part for k, part in enumerate(parts))
        )
    return texts


def texts_of(path: str) -> list[str]:
    found: list[str] = []
    for _, row in read_rows(path):
        values = [row["chosen"], row["rejected"]] if "chosen" in row else row["responses"]
        found += [value for value in values if isinstance(value, str)]
    return found


def main() -> None:
    texts = [text for path in sys.argv[1:] for text in texts_of(path)] or made_texts(2000)
    attributes = [ATTRIBUTES[name] for name in DEFAULT]
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        measure_texts(texts, attributes)
        seconds.append(time.process_time() - start)
    record = {
        "attributes": len(attributes),
        "responses": len(texts),
        "mean_characters": float(np.mean([len(text) for text in texts])),
        "responses_per_second": len(texts) / min(seconds),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
