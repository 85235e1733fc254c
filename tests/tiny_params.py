"""Parameters of a whole chain that takes seconds: every stage, one student two layers deep."""

from typing import Any

CONVOLUTIONS = [[8, 10, 5], [8, 3, 2], [8, 3, 2], [8, 3, 2], [8, 3, 2], [8, 2, 2], [8, 2, 2]]
STUDENT = {
    "recipe": "fithubert",
    "shape": {
        "conv_layers": CONVOLUTIONS,
        "width": 8,
        "depth": 2,
        "ffn_width": 8,
        "attention_heads": 2,
        "pos_conv_groups": 2,
        "pos_conv_kernel": 8,
        "heads": {"teacher_width": 16},
    },
}
BUDGET = {"steps": 4, "batch": 4, "eval_every": 2, "learning_rates": [0.01]}
TINY_PARAMS: dict[str, Any] = {
    "data": {"source": "synthetic", "hours": 0.02, "speakers": 6, "heldout_speakers": 2},
    "teacher": {"source": "tiny_teacher", "probe_utterances": 6},
    "cache": {"shard_minutes": 0.2, "batch_seconds": 10.0},
    "distill": {
        "updates": 40,
        "batch_seconds": 4.0,
        "crop_seconds": 1.0,
        "dev_every_updates": 20,
        "checkpoint_every_updates": 2,
    },
    "students": {"thin": STUDENT},
    "profile": {"seconds": [0.5], "rounds": 1, "threads": 1, "paper_size": False},
    "extract": {"shard_minutes": 0.5},
    "superb": {
        "models": ["fbank", "teacher", "thin"],
        "controls": {"teacher_cut2": {"layers": [0, 1]}},
        "protocol": "mini",
        "quirks": {},
        "tasks": {"pr": BUDGET},
        "seeds": [1],
    },
    "depth": {"budget": BUDGET},
    "ablation": {
        "time_reduction": {
            "of": "thin",
            "variants": {"none": {"shape": {"time_reduction": {"kind": "none"}}}, "conv1d_x2": {}},
            "seeds": [1],
            "budget": {"updates": 4, "dev_every_updates": 2, "tasks": {"sid": BUDGET}},
        }
    },
    "report": {"title": "tiny"},
}
