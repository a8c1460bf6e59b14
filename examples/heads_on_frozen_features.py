"""Three objectives on the same frozen features: the backbone is read once, each objective then trains in a second."""

from testbed_files import make_files

from odin_rm import load_preferences
from odin_rm.evaluation.audit import point_figures
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_tokenizer
from odin_rm.reward.features import frozen_features
from odin_rm.reward.head_training import train_heads
from odin_rm.reward.scoring import as_scored

folder = make_files()
tokenizer = load_tokenizer(folder / "model")
model = RewardModel.from_backbone(folder / "model", heads=("quality",), normalise_heads=False)
kwargs = {"pad_token_id": tokenizer.pad_token_id, "cache_dir": folder / "features"}

train, held_out = (load_preferences(str(folder / f"{name}.jsonl"), tokenizer) for name in ("train", "held_out"))
rows, held_out_rows = (frozen_features(model, data, **kwargs).rows for data in (train, held_out))
for objective in ("bradley_terry", "odin", "matched"):
    trained = train_heads(rows, train, objective, batch_pairs=64, epochs=10, learning_rate=0.01)
    quality = trained.scores(held_out_rows).quality.numpy()
    figures = point_figures(as_scored(held_out, {"quality": quality}, objective))
    print(f"{objective:<14} accuracy {figures['accuracy']:.3f}  pearson {figures['pearson']:+.3f}")
