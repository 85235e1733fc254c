"""PR, KS, SID and IC trained here and by a plain restatement: same features, seed and steps, same losses and metric.

The restatement (`benchmarks.plain_superb`) has its own head, batches, losses and metrics; what both share is the seed.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain_superb import PlainTask, PlainTraining, hear_stored, plain_classes, plain_phones
from benchmarks.widen import widen_to_base
from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertTeacher
from fithubert.superb.learners import BoundLearner
from fithubert.superb.run import fit
from tests.superb.fakes import MemoryStore, official, small

NAMES = ("pr", "ks", "sid", "ic")
#: The same order of batches for the same seed; the accumulation is the official one of SID in small.
SETTINGS: dict[str, object] = {"steps": 60, "batch": 6, "accumulate": 2, "eval_every": 20}


def restate(name: str, corpus: Manifest) -> PlainTask:
    return plain_phones(corpus) if name == "pr" else plain_classes(name, corpus)


def train_plainly(name: str, corpus: Manifest, store: MemoryStore, budget: TaskBudget) -> PlainTraining:
    # Frames are kept in half precision, means are not: with other roundings PR's losses part after some 60 steps.
    precision = torch.float16 if name == "pr" else torch.float32
    hear = hear_stored(lambda row: [layer.to(precision).float() for layer in store.rows[row].values()])
    rate = budget.learning_rates[0]
    return PlainTraining(restate(name, corpus), hear, budget.batch, budget.accumulate, rate, seed=1337)


class Recorder:
    """A learner whose losses are recorded."""

    def __init__(self, learner: BoundLearner) -> None:
        self.learner = learner
        self.losses_seen: list[Tensor] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.learner, name)

    def losses(self, heads: Sequence[nn.Module]) -> Tensor:
        losses = self.learner.losses(heads)
        self.losses_seen.append(losses.detach().clone())
        return losses


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_metrics_are_those_of_the_restatement(name: str, informed: MemoryStore, corpus: Manifest) -> None:
    task, budget = official(name), small(name, **SETTINGS)
    recorder = Recorder(task.bind(informed, corpus, budget))
    [ours] = fit(recorder, task, budget, budget.learning_rates, seed=1337)  # type: ignore[arg-type]
    plain = train_plainly(name, corpus, informed, budget)
    expected = plain.run(budget.steps, budget.eval_every)
    losses = torch.cat(recorder.losses_seen)
    assert losses[:60].tolist() == pytest.approx(plain.losses[:60], rel=1e-4, abs=1e-6)
    assert losses.tolist() == pytest.approx(plain.losses, rel=5e-3, abs=1e-5)
    with torch.no_grad():
        [values] = recorder.learner.evaluate([ours.head], "test")
    assert values[task.selection.name].value == pytest.approx(expected, abs=0.5)
    # It has learnt: the equality is not that of two heads at chance.
    assert plain.losses[-1] < 0.7 * plain.losses[0]


def test_a_widened_teacher_says_what_it_said() -> None:
    small = load_teacher("mini")
    assert isinstance(small, HubertTeacher)
    wide = widen_to_base(small)
    assert sum(weight.numel() for weight in wide.model.parameters()) == 94_370_816
    waveforms, lengths = 0.1 * torch.randn(1, 8000), torch.tensor([8000])
    pairs = zip(small(waveforms, lengths).hidden_states, wide(waveforms, lengths).hidden_states, strict=True)
    for ours, copied in pairs:
        # Every feature four times: their sums are those of the small one.
        assert torch.allclose(copied.sum(-1), 4 * ours.sum(-1), atol=1e-3)
        assert torch.allclose(copied.square().sum(-1), 4 * ours.square().sum(-1), rtol=1e-4)
