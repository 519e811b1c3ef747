"""Each tool reads, with its own reader, the numbers that the records have."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import packages
import pandas as pd
import pytest
import torch
from messages import refusal
from torch import nn

import sigprop
from sigprop import BadInput
from sigprop.integrations.grouped import by_step, findings_text
from sigprop.integrations.json_lines import write_json_lines
from sigprop.integrations.lightning import lightning_callback
from sigprop.integrations.openmetrics import write_openmetrics
from sigprop.integrations.tensorboard import write_tensorboard
from sigprop.integrations.transformers import trainer_callback

STEPS = 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(12)), nn.Linear(6, 2))


def batch(step: int) -> torch.Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step))


@pytest.fixture(scope="module")
def records() -> sigprop.Records:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, network="net") as probe:
        for step in range(STEPS):
            loss = model(batch(step)).square().mean()
            probe.log(loss=loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return probe.records


@pytest.fixture(scope="module")
def findings(records: sigprop.Records) -> sigprop.Findings:
    found = sigprop.diagnose(records)
    assert "vanishing-backward" in found.ids
    return found


def second_moment(records: sigprop.Records, module: str, step: int) -> float:
    rows = records.by_block("second_moment", step=step)
    return float(rows[rows["module"] == module]["second_moment"].item())


class TestKeys:
    def test_they_name_the_depth_and_sort_by_it(self, records: sigprop.Records) -> None:
        steps = list(by_step(records))
        assert [one[:3] for one in steps] == [("net", 0, step) for step in range(STEPS)]
        keys = [k for k in steps[0].numbers if k.startswith("forward/second_moment")]
        assert keys == sorted(keys)
        assert keys[:2] == ["forward/second_moment/00_0", "forward/second_moment/01_1"]

    def test_there_is_one_group_a_number(self, records: sigprop.Records) -> None:
        groups = {key.rpartition("/")[0] for key in next(by_step(records)).numbers}
        assert groups == {
            "forward/second_moment",
            "forward/channel_variance",
            "forward/dead_fraction",
            "backward/second_moment",
            "backward/channel_variance",
            "parameters/grad_to_weight",
            "parameters/update_to_weight",
            "train",
        }

    def test_numbers_are_those_of_the_records(self, records: sigprop.Records) -> None:
        for one in by_step(records):
            moment = one.numbers["forward/second_moment/03_3"]
            assert moment == second_moment(records, "3", one.step)
            row = records.parameters.query(f"name == '3.layer.weight' and step == {one.step}")
            key = "parameters/update_to_weight/03_3.layer.weight"
            assert one.numbers[key] == row["update_to_weight"].item()

    def test_empty_records_have_none(self) -> None:
        assert list(by_step(sigprop.Records())) == []

    def test_an_unknown_column(self, records: sigprop.Records) -> None:
        with refusal(BadInput, "the records have no column 'varience'"):
            list(by_step(records, signals=["varience"]))


def test_tensorboard(tmp_path: Path, records: sigprop.Records, findings: sigprop.Findings) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_tensorboard(records, tmp_path, findings)
    seen = EventAccumulator(str(tmp_path))
    seen.Reload()
    wanted = list(by_step(records))
    assert set(seen.Tags()["scalars"]) == set(wanted[0].numbers)
    for key in wanted[0].numbers:
        events = seen.Scalars(key)
        assert [event.step for event in events] == list(range(STEPS))
        # TensorBoard keeps float32
        assert [e.value for e in events] == pytest.approx(
            [w.numbers[key] for w in wanted], rel=1e-6
        )
    (text,) = (t for t in seen.Tags()["tensors"] if "vanishing-backward" in t)
    said = seen.Tensors(text)[0].tensor_proto.string_val[0].decode()
    assert findings_text(findings)["net/vanishing-backward"] == said


def test_tensorboard_keeps_a_writer_that_it_is_given_open(
    tmp_path: Path, records: sigprop.Records
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    two = sigprop.concat([records, _renamed(records, "other")])
    with SummaryWriter(str(tmp_path)) as writer:
        write_tensorboard(two, writer)
        writer.add_scalar("mine", 1.0, 0)
    seen = EventAccumulator(str(tmp_path))
    seen.Reload()
    tags = seen.Tags()["scalars"]
    assert {"mine", "train/loss/net", "train/loss/other"} <= set(tags)


def _renamed(records: sigprop.Records, network: str) -> sigprop.Records:
    frames = {table: frame.assign(network=network) for table, frame in records.tables().items()}
    return sigprop.Records(**frames)  # type: ignore[arg-type]


def test_json_lines(tmp_path: Path, records: sigprop.Records, findings: sigprop.Findings) -> None:
    path = tmp_path / "run.jsonl"
    write_json_lines(records, path)
    write_json_lines(sigprop.Records(), path, findings)
    seen = pd.read_json(path, lines=True)
    steps = seen[seen["step"].notna()]
    assert steps["step"].tolist() == list(range(STEPS))
    for one, row in zip(by_step(records), steps.to_dict("records"), strict=True):
        assert row["network"] == "net"
        assert {key: row[key] for key in one.numbers} == pytest.approx(one.numbers, rel=1e-14)
    assert seen["finding"].dropna().tolist() == [one.id for one in findings]


def test_json_lines_are_json_where_a_loss_is_not(tmp_path: Path, records: sigprop.Records) -> None:
    broken = sigprop.Records(training=records.training.assign(loss=float("inf")))
    write_json_lines(broken, tmp_path / "run.jsonl")
    lines = (tmp_path / "run.jsonl").read_text().splitlines()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(lines[0], parse_constant=refuse)["train/loss"] == "inf"


def test_openmetrics(tmp_path: Path, records: sigprop.Records, findings: sigprop.Findings) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import parser
    from prometheus_client.openmetrics import parser as open_parser

    path = tmp_path / "sigprop.prom"
    for found in (sigprop.Findings(()), findings):  # the second takes the place of the first
        write_openmetrics(records, path, found)
    text = path.read_text()
    *_, last = by_step(records)
    for read in (parser, open_parser):  # the node exporter's format, and OpenMetrics
        samples = {
            (s.name, *sorted(s.labels.items())): s.value
            for family in read.text_string_to_metric_families(text)
            for s in family.samples
        }
        where = {"network": "net", "seed": "0", "of": "forward", "name": "03_3"}
        value = samples["sigprop_second_moment", *sorted(where.items())]
        assert value == last.numbers["forward/second_moment/03_3"]
        assert samples["sigprop_step", ("network", "net"), ("seed", "0")] == STEPS - 1
        errors = sum(one.severity == "error" for one in findings)
        assert samples["sigprop_findings", ("severity", "error")] == errors > 0


@pytest.mark.parametrize(
    ("write", "package", "extra"),
    [
        (lambda r, p: write_tensorboard(r, p), "tensorboard", "tensorboard"),
        (lambda r, p: write_openmetrics(r, p), "prometheus_client", "openmetrics"),
        (lambda r, p: lightning_callback(), "lightning", "lightning"),
        (lambda r, p: trainer_callback(), "transformers", "transformers"),
    ],
)
def test_a_package_that_is_missing_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Any, package: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with refusal(BadInput, f"{package} is not installed; pip install 'sigprop[{extra}]'"):
        write(sigprop.Records(), tmp_path / "out")


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of loaders and loggers
class TestLightning:
    def fit(self, callback: Any, tmp_path: Path, **options: Any) -> nn.Module:
        lightning = pytest.importorskip("lightning.pytorch")

        class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.net = network()

            def training_step(self, x: torch.Tensor, _: int) -> torch.Tensor:
                return self.net(x).square().mean()

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        module = Module()
        data: Any = [batch(step) for step in range(STEPS)]
        loader = torch.utils.data.DataLoader(data, batch_size=None)
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[callback] if callback else [],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path,
            **{"logger": False, **options},
        )
        trainer.fit(module, loader)
        return module

    def test_it_records_what_a_loop_of_ones_own_does(
        self, tmp_path: Path, records: sigprop.Records
    ) -> None:
        callback = lightning_callback()
        trained, bare = self.fit(callback, tmp_path), self.fit(None, tmp_path)
        for mine, theirs in zip(trained.parameters(), bare.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        found = callback.records
        for table, columns in (
            ("signals", ["second_moment", "max_abs"]),
            ("parameters", ["grad_to_weight", "update_to_weight"]),
        ):
            own, loop = found.tables()[table], records.tables()[table]
            assert own["name"].str.removeprefix("net.").tolist() == loop["name"].tolist()
            pd.testing.assert_frame_equal(own[columns], loop[columns])
        assert not any(module._forward_hooks for module in trained.modules())

    def test_its_loggers_get_every_step_once(self, tmp_path: Path) -> None:
        loggers = pytest.importorskip("lightning.pytorch.loggers")
        callback = lightning_callback(log_every=2)
        self.fit(callback, tmp_path, logger=loggers.CSVLogger(tmp_path), log_every_n_steps=1)
        (path,) = tmp_path.rglob("metrics.csv")
        seen = pd.read_csv(path)
        column = "forward/second_moment/03_net.3"
        logged = seen[seen[column].notna()]
        assert logged["step"].tolist() == list(range(STEPS))
        wanted = [one.numbers[column] for one in by_step(callback.records)]
        assert logged[column].tolist() == pytest.approx(wanted)

    def test_a_directory_is_complete_after_training_and_not_after_an_exception(
        self, tmp_path: Path
    ) -> None:
        self.fit(lightning_callback(directory=tmp_path / "run"), tmp_path)
        assert sigprop.load(tmp_path / "run").missing == []
        broken = lightning_callback(directory=tmp_path / "broken")
        right = torch.optim.SGD.step
        calls = []

        def step(self: Any, *given: Any, **named: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise ZeroDivisionError
            return right(self, *given, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", step)
            with pytest.raises(ZeroDivisionError):
                self.fit(broken, tmp_path)
        loaded = sigprop.load(tmp_path / "broken")
        assert "was not completed" in loaded.missing[0]
        assert 0 in set(loaded.signals["step"])

    def test_rows_go_to_one_place(self) -> None:
        pytest.importorskip("lightning.pytorch")
        message = (
            "log_every gives loggers the rows that wait in memory, and directory= writes them to "
            "disk; give one of them"
        )
        with refusal(BadInput, message):
            lightning_callback(log_every=2, directory="runs/x")


@pytest.mark.filterwarnings("ignore")  # Transformers' own
def test_transformers_trainer(tmp_path: Path, records: sigprop.Records) -> None:
    transformers = packages.transformers()
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.net(x).square().mean()}

    def fit(callbacks: list[Any]) -> nn.Module:
        model = Model()
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=str(tmp_path),
                max_steps=STEPS,
                per_device_train_batch_size=8,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                max_grad_norm=0.0,
                lr_scheduler_type="constant",
                remove_unused_columns=False,
            ),
            train_dataset=[{"x": row} for step in range(STEPS) for row in batch(step)],
            optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
            callbacks=callbacks,
        )
        trainer.get_train_dataloader = lambda: [{"x": batch(step)} for step in range(STEPS)]
        trainer.train()
        return model

    callback = trainer_callback(directory=tmp_path / "run")
    for mine, bare in zip(fit([callback]).parameters(), fit([]).parameters(), strict=True):
        assert torch.equal(mine, bare)
    loaded = sigprop.load(tmp_path / "run")
    assert loaded.missing == []
    column = "update_to_weight"
    assert loaded.parameters[column].tolist() == pytest.approx(
        records.parameters[column].tolist(), rel=1e-6
    )
