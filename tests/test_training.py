import copy
import io
import itertools
import math

import pytest
import torch
from torch import nn

from sigprop.errors import BadInput
from sigprop.experiments.training import Plan, Progress, Training
from sigprop.inputs.datasets import Data
from sigprop.networks import build


def task(count=40, held_out=10):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count + held_out, 6, generator=generator)
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    test = (inputs[count:], targets[count:]) if held_out else None
    return Data("toy", (inputs[:count], targets[:count]), test, (6,), 3)


def dropout_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3)
    )


def trained(model, plan, **options):
    training = Training(model, task(), plan, **options)
    return training, list(training.run())


def same_state(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


# --- the plan ------------------------------------------------------------------------------------


def test_cosine_goes_from_the_rate_to_zero():
    plan = Plan(steps=100, learning_rate=0.2)
    rates = [plan.rate(step) for step in range(101)]
    assert rates[0] == 0.2
    assert rates[50] == pytest.approx(0.1)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_step_falls_to_a_tenth_three_times():
    plan = Plan(steps=100, learning_rate=1.0, schedule="step")
    rates = [plan.rate(step) for step in (0, 29, 30, 59, 60, 89, 90, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_constant_is_constant_after_a_linear_warmup():
    plan = Plan(steps=10, learning_rate=0.4, schedule="constant", warmup=4)
    assert [plan.rate(step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_warmup_may_take_all_steps():
    assert Plan(steps=2, learning_rate=1.0, warmup=2).rate(1) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, "steps must be a whole number of at least 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"warmup": -1}, "warmup must be a whole number of at least 0, got -1"),
        ({"evaluate_every": True}, "evaluate_every must be a whole number"),
        ({"warmup": 11}, "warmup=11 is longer than steps=10"),
        ({"learning_rate": -0.1}, "learning_rate must be at least 0 and finite, got -0.1"),
        ({"learning_rate": math.nan}, "learning_rate must be at least 0 and finite, got nan"),
        ({"weight_decay": math.inf}, "weight_decay must be at least 0 and finite, got inf"),
        ({"schedule": "cosin"}, r"no schedule is called 'cosin'; did you mean 'cosine'\?"),
    ],
)
def test_impossible_plans_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Plan(**{"steps": 10, **options})


# --- the loop ------------------------------------------------------------------------------------


def test_it_is_sgd_as_torch_writes_it():
    model = nn.Linear(6, 3)
    oracle = copy.deepcopy(model)
    plan = Plan(steps=5, learning_rate=0.1, weight_decay=0.01, batch_size=8)
    _, rows = trained(model, plan, seed=4)
    optimizer = torch.optim.SGD(oracle.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step, (inputs, targets) in enumerate(itertools.islice(task().batches(4, 8), 5)):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 5))
        optimizer.zero_grad()
        logits = oracle(inputs)
        loss = nn.functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        accuracy = sum(logits.argmax(1) == targets).item() / 8
        assert rows[step] == Progress(
            step, "train", loss.item(), accuracy, optimizer.param_groups[0]["lr"]
        )
    assert torch.equal(model.weight, oracle.weight)


def test_evaluation_is_of_the_whole_test_split_in_evaluation_mode():
    model = dropout_net()
    _, rows = trained(model, Plan(steps=3, batch_size=8))
    inputs, targets = task().test
    with torch.no_grad():
        logits = model.eval()(inputs)
    assert [(row.step, row.mode) for row in rows] == [
        (0, "train"),
        (1, "train"),
        (2, "train"),
        (2, "eval"),
    ]
    assert rows[-1].loss == pytest.approx(nn.functional.cross_entropy(logits, targets).item())
    assert rows[-1].accuracy == (logits.argmax(1) == targets).double().mean().item()
    assert rows[-1].learning_rate == rows[-2].learning_rate


@pytest.mark.parametrize(("every", "expected"), [(0, [4]), (1, [0, 1, 2, 3, 4]), (2, [1, 3, 4])])
def test_evaluation_comes_when_asked_and_at_the_end(every, expected):
    _, rows = trained(nn.Linear(6, 3), Plan(steps=5, evaluate_every=every))
    assert [row.step for row in rows if row.mode == "eval"] == expected


def test_no_test_split_no_evaluation():
    training = Training(nn.Linear(6, 3), task(held_out=0), Plan(steps=2, evaluate_every=1))
    assert [row.mode for row in training.run()] == ["train", "train"]


def test_evaluation_changes_nothing():
    every, never = dropout_net(), dropout_net()
    torch.manual_seed(7)
    trained(every, Plan(steps=6, evaluate_every=1))
    torch.manual_seed(7)
    trained(never, Plan(steps=6))
    assert same_state(every.state_dict(), never.state_dict())


def test_training_flags_are_given_back():
    model = dropout_net()
    model[1].eval()  # a frozen BatchNorm
    running = model[1].running_mean.clone()
    trained(model, Plan(steps=4, evaluate_every=2))
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
    assert torch.equal(model[1].running_mean, running)


def test_flags_are_given_back_after_an_error_too():
    class Fragile(nn.Linear):
        def forward(self, x):
            if not self.training:
                raise RuntimeError("out of memory")
            return super().forward(x)

    model = Fragile(6, 3)
    with pytest.raises(RuntimeError, match="out of memory"):
        trained(model, Plan(steps=1))
    assert model.training


def test_a_model_in_evaluation_mode_is_trained_in_training_mode():
    model = dropout_net().eval()
    trained(model, Plan(steps=2))
    assert all(module.training for module in model.modules())
    assert model[1].num_batches_tracked == 2


def test_data_may_be_anything_that_resolves():
    pairs = (torch.randn(8, 6), torch.arange(8) % 3)
    rows = list(Training(nn.Linear(6, 3), pairs, Plan(steps=3)).run())
    assert len(rows) == 3
    with pytest.raises(BadInput, match="no data set or directory"):
        Training(nn.Linear(6, 3), "absent", Plan(steps=1))


def test_the_batch_order_comes_from_the_seed_and_not_from_the_global_generator():
    losses = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
        torch.manual_seed(noise)
        losses.append(
            [row.loss for row in trained(model, Plan(steps=4, batch_size=8), seed=seed)[1]]
        )
    assert losses[0] == losses[1] != losses[2]


def test_the_loss_falls():
    torch.manual_seed(0)
    _, rows = trained(nn.Linear(6, 3), Plan(steps=200, learning_rate=0.1, batch_size=40))
    assert rows[-2].loss < 0.6 * rows[0].loss


# --- divergence is data -------------------------------------------------------------------------


def deep():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def test_a_diverged_run_finishes_its_step_and_stops():
    model = deep()
    training = Training(model, task(), Plan(steps=50, learning_rate=1e30, evaluate_every=1))
    updates = []
    training.optimizer.register_step_post_hook(lambda *_: updates.append(training.step))
    rows = [row for row in training.run() if row.mode == "train"]
    assert training.diverged
    assert len(rows) == len(updates) == training.step < 50
    assert not math.isfinite(rows[-1].loss)
    assert all(math.isfinite(row.loss) for row in rows[:-1])
    assert not all(torch.isfinite(p).all() for p in model.parameters())
    assert list(training.run()) == []


def test_a_healthy_run_has_not_diverged():
    training, _ = trained(nn.Linear(6, 3), Plan(steps=2))
    assert not training.diverged


# --- stopping and resuming ------------------------------------------------------------------------

PLAN = Plan(steps=13, learning_rate=0.1, batch_size=8, warmup=3, evaluate_every=4)


def uninterrupted():
    model = dropout_net()
    torch.manual_seed(11)
    training = Training(model, task(), PLAN, seed=2)
    return model, list(training.run()), torch.get_rng_state()


@pytest.mark.parametrize("rows_before", [1, 2, 4, 5, 6, 13, 15, 16])
def test_resumed_training_is_bit_identical(rows_before):
    # 4 rows is between a step and its evaluation, 5 right after it; 16 is all
    expected, expected_rows, expected_generator = uninterrupted()
    torch.manual_seed(11)
    first = Training(dropout_net(), task(), PLAN, seed=2)
    torch.manual_seed(11)
    rows = list(itertools.islice(first.run(), rows_before))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)

    torch.manual_seed(999)  # another process
    file.seek(0)
    second = Training(dropout_net(seed=5), task(), PLAN, seed=2)
    second.load_state_dict(torch.load(file, weights_only=True))
    rows += list(second.run())
    assert rows == expected_rows
    assert same_state(second.model.state_dict(), expected.state_dict())
    assert torch.equal(torch.get_rng_state(), expected_generator)


def test_forgetting_the_generator_would_show():
    # saboteur: a resume that does not restore the random state must not look identical
    expected, _, _ = uninterrupted()
    torch.manual_seed(11)
    model = dropout_net()
    torch.manual_seed(11)
    first = Training(model, task(), PLAN, seed=2)
    list(itertools.islice(first.run(), 6))
    torch.manual_seed(999)
    list(first.run())
    assert not same_state(model.state_dict(), expected.state_dict())


def test_running_on_continues_where_it_stopped():
    training = Training(nn.Linear(6, 3), task(), Plan(steps=5))
    assert [row.step for row in itertools.islice(training.run(), 2)] == [0, 1]
    assert [row.step for row in training.run()] == [2, 3, 4, 4]
    assert list(training.run()) == []


def test_a_network_with_biases_before_resumes_with_them():
    plan = Plan(steps=6, batch_size=8)

    def fresh(seed):
        torch.manual_seed(seed)
        return build("rescale", depth=2, width=8, inputs=6, classes=3)

    whole, expected = trained(fresh(0), plan)
    first = Training(fresh(0), task(), plan)
    rows = list(itertools.islice(first.run(), 3))
    second = Training(fresh(1), task(), plan)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    rows += list(second.run())
    assert rows == expected
    assert same_state(second.model.state_dict(), whole.model.state_dict())


def test_divergence_is_remembered():
    training, _ = trained(deep(), Plan(steps=50, learning_rate=1e30))
    other = Training(deep(), task(), Plan(steps=50))
    other.load_state_dict(training.state_dict())
    assert other.diverged
    assert list(other.run()) == []


def test_evaluation_keeps_no_graph():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append((self.training, out.requires_grad))
            return out

    trained(Watched(6, 3), Plan(steps=1))
    assert seen == [(True, True), (False, False)]
