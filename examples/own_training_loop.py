"""The objective in a training loop of your own: any model that gives each response a quality and a length score.

The loss is of the whole batch: its correlation is no mean over parts, so all scores of a batch go in at once. Where a
batch is too large for one backward pass, ``odin_rm.exact_backward`` gives the same gradient from micro-batches.
"""

import torch
from testbed_files import make_files
from transformers import AutoTokenizer

import odin_rm

BATCH_PAIRS = 64
folder = make_files()
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
data = odin_rm.load_preferences(str(folder / "train.jsonl"), tokenizer, odin_rm.EncodingSettings(max_length=256))

torch.manual_seed(0)
model = odin_rm.RewardModel.from_backbone(str(folder / "model"))
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)

for step, pairs in enumerate(torch.randperm(data.num_pairs).repeat(3).split(BATCH_PAIRS), start=1):
    chosen, rejected = (torch.from_numpy(side[pairs.numpy()]).long() for side in (data.pair_chosen, data.pair_rejected))
    responses, place = torch.cat([chosen, rejected]).unique(return_inverse=True)  # each response is scored once
    chosen_B, rejected_B = place.split(len(pairs))

    ids = [torch.from_numpy(data.input_ids(int(r)).copy()).long() for r in responses]
    input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
    scores = model(input_ids=input_ids, attention_mask=mask)

    parts = odin_rm.disentangled_loss(
        scores.quality,
        scores.length,
        torch.from_numpy(data.response_tokens[responses.numpy()]).float(),
        chosen_B,
        rejected_B,
        head_cosine=model.head_cosine(),
    )
    optimiser.zero_grad()
    parts.total.backward()
    optimiser.step()
    if step % 5 == 0:
        print(
            f"step {step:>2}  ranking {float(parts.ranking.detach()):.3f}  accuracy {float(parts.accuracy):.2f}  "
            f"quality with length {float(parts.quality_length_correlation):+.2f}  "
            f"length with length {float(parts.length_length_correlation):+.2f}"
        )

model.save_pretrained(folder / "own", tokenizer=tokenizer)
print(f"The model, which odin-rm score, audit and export take: {folder / 'own'}")
