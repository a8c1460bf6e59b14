"""Two reward models on the same pairs, a plain one and ODIN, and their audits side by side."""

from testbed_files import make_files

import odin_rm

folder = make_files()
for objective in ("bradley_terry", "odin"):
    run = odin_rm.train_reward_model(
        odin_rm.RewardConfig(
            model=str(folder / "model"),
            dataset=str(folder / "train.jsonl"),
            output_dir=str(folder / objective),
            overwrite_output_dir=True,
            objective=objective,
            batch_pairs=64,
            learning_rate=3e-3,
            num_train_epochs=4,
            save_strategy="no",
            use_cpu=True,
        )
    )
    scorer = odin_rm.load_scorer(run / "model")
    pairs = odin_rm.load_preferences(str(folder / "held_out.jsonl"), scorer.tokenizer, scorer.settings)
    audit = odin_rm.audit_preferences(odin_rm.score_preferences(scorer, pairs))
    for name in ("accuracy", "accuracy_chosen_shorter", "pearson", "information_beyond_length"):
        figure = audit[name]
        print(f"{objective:<14} {name:<26} {figure.value:6.3f}  ({figure.low:.3f} to {figure.high:.3f})")
