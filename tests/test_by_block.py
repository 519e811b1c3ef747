"""`Records.by_block`: the commonest question, and what it says to a wrong one."""

from __future__ import annotations

import pytest
import torch
from synthetic import gradient, make, second_moment

import sigprop
from sigprop import BadInput, UnknownName
from sigprop.records import Records, tidy

RECORDS = make(networks=("batchnorm", "rescale"), blocks=4, seeds=2, steps=(0, 10, 20))


def test_one_row_per_network_seed_and_block_at_the_last_step() -> None:
    rows = RECORDS.by_block("second_moment")
    assert list(rows.columns) == [
        "network", "run", "seed", "step", "block", "module", "second_moment", "nonfinite",
    ]  # fmt: skip
    assert len(rows) == 2 * 2 * 4
    assert rows["step"].unique().tolist() == [20]
    assert rows["module"].tolist() == [f"blocks.{block}" for block in range(4)] * 4
    for _, row in rows.iterrows():
        expected = second_moment(row["network"], row["block"], row["seed"], 20)
        assert row["second_moment"] == pytest.approx(expected, rel=1e-15)


def test_gradients_inputs_and_several_numbers() -> None:
    rows = RECORDS.by_block("second_moment", "backward", step="first")
    assert rows.query("network == 'rescale' and seed == 1")["second_moment"].tolist() == [
        pytest.approx(gradient("rescale", block, 4, 1)) for block in range(4)
    ]
    rows = RECORDS.by_block(["second_moment", "mean_shift", "channels"], port="in", step=10)
    assert rows["step"].unique().tolist() == [10]
    first = rows.query("network == 'batchnorm' and block == 0 and seed == 0").iloc[0]
    assert first["second_moment"] == second_moment("batchnorm", -1, 0, 10)
    assert first["channels"] == 64


def test_all_steps() -> None:
    assert len(RECORDS.by_block("mean", step=None)) == 3 * len(RECORDS.by_block("mean"))


def test_each_draw_has_a_last_step_of_its_own() -> None:
    longer = make(networks=("batchnorm",), blocks=1, seeds=1, steps=(0, 50))
    rows = sigprop.concat([RECORDS, longer]).by_block("mean")
    assert rows.groupby(["network", "seed"])["step"].max().to_dict() == {
        ("batchnorm", 0): 50, ("batchnorm", 1): 20, ("rescale", 0): 20, ("rescale", 1): 20,
    }  # fmt: skip


def test_numbers_of_ones_own_and_a_model_of_ones_own() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    x = torch.randn(16, 4)
    largest = {"largest": lambda t: t.abs().max()}
    with sigprop.attach(model, blocks="leaves", metrics=largest) as probe:
        model(x).sum().backward()
    rows = probe.records.by_block(["largest", "max_abs", "second_moment"])
    assert rows["module"].tolist() == ["0", "1", "2"]
    assert rows["largest"].tolist() == pytest.approx(rows["max_abs"].tolist())
    assert rows["second_moment"].iloc[-1] == pytest.approx(model(x).square().mean().item())


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (
            {"quantity": "secnd_moment"},
            UnknownName,
            "no number of signals is called 'secnd_moment'; did you mean 'second_moment'?",
        ),
        (
            {"quantity": "mean", "direction": "backwards"},
            UnknownName,
            "no direction of signals is called 'backwards'; did you mean 'backward'?",
        ),
        (
            {"quantity": "mean", "port": "output"},
            UnknownName,
            "no port of signals is called 'output'; did you mean 'out'?",
        ),
        (
            {"quantity": "mean", "step": 7},
            BadInput,
            "step is 'first', 'last', None or one of 0, 10, 20, not 7",
        ),
        (
            {"quantity": "mean", "step": "end"},
            BadInput,
            "step is 'first', 'last', None or one of 0, 10, 20, not 'end'",
        ),
    ],
)
def test_a_wrong_question(asked: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        RECORDS.by_block(**asked)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_of_many_steps_a_message_shows_some() -> None:
    long = Records(
        signals=tidy("signals", [{"step": step, "kind": "block", "port": "out",
                                  "direction": "forward"} for step in range(20)])
    )  # fmt: skip
    with pytest.raises(BadInput, match=r"one of 0, 1, 2, 3, \.\.\., 17, 18, 19, not 99"):
        long.by_block("mean", step=99)


def test_nothing_recorded() -> None:
    assert Records().by_block("second_moment").empty
