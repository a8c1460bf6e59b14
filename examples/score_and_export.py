"""Scores of single answers, and an export of the quality head that plain transformers reads alike."""

import torch
from testbed_files import make_files
from transformers import AutoTokenizer, pipeline

import odin_rm

folder = make_files()
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
torch.manual_seed(0)
odin_rm.RewardModel.from_backbone(str(folder / "model")).save_pretrained(folder / "reward", tokenizer=tokenizer)

scorer = odin_rm.load_scorer(folder / "reward")  # in earnest: runs/odin/model of odin-rm reward
prompt, answers = "How do I boil an egg?", ["Seven minutes.", "Put it into boiling water for seven minutes."]
quality, length, tokens = odin_rm.score_texts(scorer, [prompt, prompt], answers)
for k, answer in enumerate(answers):
    print(f"quality {quality[k]:+.4f}  length reward {length[k]:+.4f}  {tokens[k]:>2} tokens  {answer}")

odin_rm.export_quality_head(scorer.model, folder / "exported", tokenizer=scorer.tokenizer, overwrite=True)
classifier = pipeline("text-classification", str(folder / "exported"), device="cpu", function_to_apply="none")
for k, answer in enumerate(answers):
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    (found,) = classifier(classifier.tokenizer.apply_chat_template(chat, tokenize=False))
    print(f"exported {found['score']:+.4f}  difference {abs(found['score'] - quality[k]):.1e}")
