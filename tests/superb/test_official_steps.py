"""One training step of the official protocol against a plain one: the same head and batch, s3prl's order of work."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fithubert.config.superb import official_budgets
from fithubert.data.manifest import Manifest, Utterance
from fithubert.superb.heads import LinearHead
from fithubert.superb.run import fit
from tests.superb.fakes import MemoryStore, official, small
from tests.superb.test_heads import plain_logits

CORPUS_SIZES = (40, 48, 40, 24)


def plain_classification(head: LinearHead, features: list[Tensor], labels: Tensor, slots: tuple[int, ...]) -> Tensor:
    """The mean over utterances of the summed cross entropies of all slots, pooled after both linear maps."""
    logits = torch.stack([plain_logits(head, row).mean(0) for row in features])
    parts = logits.split(slots, dim=1)
    return sum(nn.functional.cross_entropy(p, labels[:, i]) for i, p in enumerate(parts))  # type: ignore[return-value]


LABELS: dict[str, tuple[str, Callable[[Utterance], tuple[str, ...]]]] = {
    "ks": ("keyword", lambda u: (str(u.keyword),)),
    "sid": ("sentence", lambda u: (str(u.speaker),)),
    "er": ("sentence", lambda u: (str(u.style),)),
    "ic": ("command", lambda u: (u.intent.action, u.intent.object, u.intent.location) if u.intent else ()),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_step_of_classification_equals_a_plain_one(name: str, informed: MemoryStore, corpus: Manifest) -> None:
    kind, labels_of = LABELS[name]
    budget = official_budgets()[name]
    learner = official(name).bind(informed, corpus, budget)
    torch.manual_seed(0)
    head = learner.new_head()
    assert isinstance(head, LinearHead)
    learner.start_epochs(1337, budget.batch)
    losses = [float(learner.losses([head]).detach()) for _ in range(12)]
    learner.start_epochs(1337, budget.batch)
    train = corpus.select("train", kind).utterances
    classes = [sorted(set(slot)) for slot in zip(*map(labels_of, train), strict=True)]
    numbers = torch.tensor([[c.index(x) for c, x in zip(classes, labels_of(u), strict=True)] for u in train])
    for loss in losses:
        batch = learner.order.next_batch()  # type: ignore[attr-defined]
        rows = [torch.stack([informed.rows[train[i].id][k] for k in range(3)]) for i in batch]
        plain = plain_classification(head, rows, numbers[torch.from_numpy(batch)], tuple(len(c) for c in classes))
        assert loss == pytest.approx(float(plain.detach()), rel=1e-4)


def test_a_step_of_phones_equals_a_plain_one(informed: MemoryStore, corpus: Manifest) -> None:
    learner = official("pr").bind(informed, corpus, official_budgets()["pr"])
    head = learner.new_head()
    assert isinstance(head, LinearHead)
    learner.start_epochs(1337, 16)
    loss = float(learner.losses([head]).detach())
    learner.start_epochs(1337, 16)
    window = learner.windows[int(learner.order.next_batch()[0])]  # type: ignore[attr-defined]
    first, last = window.start, window.stop
    assert last - first == 16
    train = sorted(corpus.select("train", "sentence"), key=lambda u: (len(u.phones or ()), u.id))
    symbols = sorted({p.label for u in train for p in u.phones or ()})
    rows = [torch.stack([informed.rows[u.id][k] for k in range(3)]).half().float() for u in train[first:last]]
    logits = nn.utils.rnn.pad_sequence([plain_logits(head, row).log_softmax(1) for row in rows])
    targets = [torch.tensor([symbols.index(p.label) + 1 for p in u.phones or ()]) for u in train[first:last]]
    lengths = torch.tensor([row.shape[1] for row in rows]), torch.tensor([len(t) for t in targets])
    plain = nn.CTCLoss(zero_infinity=True)(logits, nn.utils.rnn.pad_sequence(targets, batch_first=True), *lengths)
    assert loss == pytest.approx(float(plain.detach()), rel=1e-4)


def test_accumulated_batches_are_one_step_of_their_mean(informed: MemoryStore, corpus: Manifest) -> None:
    task = official("ic")
    learner = task.bind(informed, corpus, small("ic"))
    learner.start_epochs(5, 4)
    torch.manual_seed(5)
    head = learner.new_head()
    adam = torch.optim.Adam(head.parameters(), lr=1e-2)
    (sum(learner.losses([head]).sum() for _ in range(3)) / 3).backward()
    nn.utils.clip_grad_norm_(head.parameters(), 1.0)
    adam.step()
    [ours] = fit(learner, task, small("ic", steps=1, accumulate=3), (1e-2,), seed=5)
    for name, value in head.state_dict().items():
        torch.testing.assert_close(ours.head.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pr", "ks", "sid", "ic"])
def test_training_equals_plain_training(name: str, informed: MemoryStore, corpus: Manifest) -> None:
    """Same features, seed and steps through plain heads, accumulated in two batches: same parameters, same scores."""
    task, budget = official(name), small(name, steps=10, batch=6, accumulate=2, eval_every=10)
    learner, plain_learner = (task.bind(informed, corpus, budget) for _ in range(2))
    [ours] = fit(learner, task, budget, (1e-2,), seed=1337)
    plain_learner.logits = lambda heads, features, *_: torch.stack(  # type: ignore[attr-defined]
        [plain_logits(h, features) for h in heads]
    )
    torch.manual_seed(1337)
    head = plain_learner.new_head()
    first = nn.utils.parameters_to_vector(head.parameters()).detach()
    adam = torch.optim.Adam(head.parameters(), lr=1e-2)
    plain_learner.start_epochs(1337, budget.batch)
    for _ in range(budget.steps):
        adam.zero_grad()
        for _ in range(budget.accumulate):
            (plain_learner.losses([head])[0] / budget.accumulate).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        adam.step()
    # Adam's first steps are signs of gradients, so a rounding error in a gradient of almost 0 moves one parameter by a
    # step: compared is the distance of all parameters against how far they have moved.
    plain, kept = (nn.utils.parameters_to_vector(h.parameters()) for h in (head, ours.head))
    assert (plain - kept).norm() < 0.01 * (plain - first).norm()
    with torch.no_grad():
        [values], [expected] = learner.evaluate([ours.head], "test"), plain_learner.evaluate([head.eval()], "test")
    assert {k: v.value for k, v in values.items()} == pytest.approx({k: v.value for k, v in expected.items()}, abs=2)
