"""From options to batches of events: the same ones whatever the workers, and one sentence for what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_events import write_files

from influencerformer.data.tracks import event_folder
from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.datamodule import TrackDataModule
from influencerformer.data.tracks.event_folder import EventFolder
from influencerformer.errors import UserError

SMALL: dict[str, Any] = {"num_particles": (3, 6), "train_events": 5, "val_events": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


def data(root: Path, **options: Any) -> TrackDataModule:
    return TrackDataModule(root=str(root), **{**SMALL, **options})


def test_generated_events_are_trained_on_and_validated_as_they_are(root: Path) -> None:
    module = data(root, batch_size=2)
    module.prepare_data()
    module.setup("fit")
    assert (module.class_names, module.num_classes) == (["track"], 1)
    batches = list(module.train_dataloader())
    assert [len(batch["names"]) for batch in batches] == [2, 2]
    seen = list(module.val_dataloader())
    assert [batch["names"] for batch in seen] == [["event000000001"], ["event000000002"]]
    for index, batch in enumerate(seen):
        assert torch.equal(batch["positions"][0], module.dataset("val")[index].positions)
        assert 3 <= len(batch["class_labels"][0]) <= 6
    first = module.dataset("train")[0].positions, module.dataset("val")[0].positions
    assert first[0].shape != first[1].shape or not torch.equal(*first)


def test_the_same_seed_gives_the_same_batches_whatever_the_workers(root: Path) -> None:
    one, two, other = (
        next(iter(data(root, seed=seed, num_workers=workers).train_dataloader()))
        for seed, workers in ((1, 0), (1, 1), (2, 0))
    )
    assert one["names"] == two["names"]
    assert torch.equal(one["features"][0], two["features"][0])
    assert one["features"][0].shape != other["features"][0].shape or not torch.equal(
        one["features"][0], other["features"][0]
    )


def test_events_of_other_options_have_another_folder(root: Path) -> None:
    kinds = ({}, {"data_seed": 1}, {"generator": {"noise": 0.3}}, {"num_particles": 4}, {"seed": 3}, {"rotate": False})
    folders = {str(data(root, **kind).dataset("val").root) for kind in kinds}
    assert len(folders) == 4


def test_validation_needs_no_training_events(tmp_path: Path) -> None:
    module = data(tmp_path)
    module.setup("validate")
    assert [folder.name[:4] for folder in tmp_path.iterdir()] == ["val_"]


def test_cuts_reach_the_events(root: Path) -> None:
    strict = data(root, cuts=Cuts(min_pt=1.0)).dataset("val")
    for index in range(2):
        assert bool((strict[index].particles.pt >= 1.0).all())
    assert sum(event.num_particles for event in strict) < sum(e.num_particles for e in data(root).dataset("val"))


def folder_of(root: Path, count: int) -> Path:
    for number in range(1, count + 1):
        write_files(root, f"event{number:09d}")
    return root


def names(module: TrackDataModule) -> tuple[list[str], list[str]]:
    train, val = ([name[-2:] for name in module.dataset(part).names] for part in ("train", "val"))
    return train, val


def test_a_single_folder_is_shared_out(tmp_path: Path) -> None:
    folder_of(tmp_path, 5)

    def shared(train: int | None = None, val: int | None = None) -> tuple[list[str], list[str]]:
        return names(TrackDataModule("trackml", str(tmp_path), train_events=train, val_events=val))

    assert shared() == (["01", "02", "03", "04"], ["05"])
    assert shared(train=2, val=2) == (["01", "02"], ["04", "05"])
    assert shared(val=3) == (["01", "02"], ["03", "04", "05"])
    with pytest.raises(UserError, match="holds 5 events, too few to train on 3 and validate on 3 others"):
        shared(train=3, val=3)
    with pytest.raises(UserError, match="holds 5 events, too few to train on 1 and validate on 6 others"):
        shared(val=6)


def test_a_single_event_can_be_validated_on(tmp_path: Path) -> None:
    module = TrackDataModule("trackml", str(folder_of(tmp_path, 1)))
    module.setup("validate")
    assert module.dataset("val").names == ["event000000001"]
    with pytest.raises(UserError, match="holds 1 events, too few to train on 1 and validate on 1 others"):
        module.setup("fit")


def test_folders_train_and_val_are_taken_as_they_are(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", 3)
    folder_of(tmp_path / "val", 2)
    assert names(TrackDataModule("trackml", str(tmp_path))) == (["01", "02", "03"], ["01", "02"])
    assert names(TrackDataModule("trackml", str(tmp_path), train_events=1)) == (["01"], ["01", "02"])
    with pytest.raises(UserError, match=r"val holds 2 events, fewer than val_events 3$"):
        names(TrackDataModule("trackml", str(tmp_path), val_events=3))


def test_events_are_read_once_while_they_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_folder, "KEPT_HITS", 7)
    events = EventFolder(folder_of(tmp_path, 2))
    assert events[0] is events[0]
    assert events[1] is not events[1]
    assert [event.name for event in events.keep([1])] == ["event000000002"]
    assert [path.name for path in events.files_of(1)][:2] == ["event000000002-hits.csv", "event000000002-truth.csv"]


def test_an_event_that_cannot_be_used_is_named_or_left_out(tmp_path: Path) -> None:
    folder_of(tmp_path, 20)
    (tmp_path / "event000000004-hits.csv").write_text("hit_id\n")
    stop = TrackDataModule("trackml", str(tmp_path), rotate=False, reflect=False)
    with pytest.raises(UserError, match=r"event000000004-hits\.csv"):
        list(stop.train_dataloader())
    skip = TrackDataModule("trackml", str(tmp_path), rotate=False, reflect=False, on_bad_sample="skip")
    with pytest.warns(UserWarning, match=r"bad sample left out of train: .*event000000004-hits\.csv"):
        seen = [batch["names"][0] for batch in skip.train_dataloader()]
    assert len(seen) == 18
    assert "event000000004" not in seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "root"}, "format must be generated or trackml, got 'root'"),
        ({"on_bad_sample": "cry"}, "on_bad_sample must be stop or skip, got 'cry'"),
        ({"batch_size": 0}, "batch_size must be 1 or larger, got 0"),
        ({"num_workers": -1}, "num_workers must be 0 or larger, got -1"),
        ({"seed": -1}, "seed must be 0 or larger, got -1"),
        ({"data_seed": -1}, "data_seed must be 0 or larger, got -1"),
        ({"train_events": 0}, "train_events must be 1 or larger, got 0"),
        ({"val_events": 0}, "val_events must be 1 or larger, got 0"),
        ({"generator": {"seed": 1.0}}, "generator has no option seed: it has noise, efficiency"),
    ],
)
def test_options_out_of_range_are_named(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data(root, **options)


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is no folder"):
        TrackDataModule("trackml", str(tmp_path / "nowhere")).setup("fit")
