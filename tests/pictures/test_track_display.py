"""Pictures of events say who is found, who is not, and what is fake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from influencerformer.data.tracks.assemble import assemble_event
from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.generate import generate_event
from influencerformer.data.tracks.sample import Event, Particles
from influencerformer.pictures.cloud_colours import instance_colours
from influencerformer.pictures.tracks import BACKGROUND, FAKE_COLOUR, OTHER_COLOUR, UNFOUND, event_display


@pytest.fixture(scope="module")
def event() -> Event:
    return assemble_event("event000000007", generate_event(4, 12))


def legend(figure: Figure, column: int) -> list[str]:
    return [text.get_text() for text in figure.axes[column].get_legend().get_texts()]


def line_colours(figure: Figure, panel: int) -> list[str]:
    return [to_hex(colour) for lines in figure.axes[panel].collections[1:] for colour in lines.get_edgecolor()]


def without_truth(event: Event) -> Event:
    none = torch.zeros(len(event), dtype=torch.int64)
    return replace(
        event,
        particle_labels=none,
        particle_ids=none,
        weights=none.float(),
        particles=Particles.none(),
        has_truth=False,
    )


def test_a_spoiled_prediction_is_told_in_the_legends(event: Event) -> None:
    labels = event.particle_labels.clone()
    of = [torch.nonzero(labels == k).flatten() for k in range(1, 13)]
    labels[of[0]] = 0  # not found
    labels[of[1][6:]] = 50  # a duplicate of three or more hits
    noise = torch.nonzero(event.particle_ids == 0).flatten()
    labels[noise[:4]] = 60  # a fake
    figure = event_display(event, labels)
    assert len(figure.axes) == 4
    assert figure.get_suptitle() == f"event000000007, {len(event)} hits"
    assert legend(figure, 0) == [f"{len(noise)} hits of noise or of other particles", "1 not found", "11 found"]
    left = len(of[0]) + len(noise) - 4
    assert legend(figure, 1) == [f"{left} hits in no track", "1 duplicate or fragment", "11 find a particle", "1 fake"]
    titles = [figure.axes[column].get_legend().get_title().get_text() for column in (0, 1)]
    assert titles == ["truth: 12 particles", "prediction: 13 tracks"]


def test_a_track_has_the_colour_of_the_particle_it_finds(event: Event) -> None:
    labels = 100 - event.particle_labels
    labels[event.particle_labels == 0] = 0
    labels[event.particle_labels == 3] = 0
    figure = event_display(event, labels)
    colours = [to_hex(colour / 255) for colour in instance_colours(12)]
    found = [colour for number, colour in enumerate(colours, start=1) if number != 3]
    for panel in (0, 2):
        assert set(found) | {UNFOUND} <= set(line_colours(figure, panel))
        assert colours[2] not in line_colours(figure, panel)
    for panel in (1, 3):
        assert set(found) <= set(line_colours(figure, panel))
        assert not {UNFOUND, FAKE_COLOUR} & set(line_colours(figure, panel))


def test_fakes_and_tracks_of_other_particles_have_their_own_colours() -> None:
    tables = generate_event(4, 12)
    event = assemble_event("e", tables, Cuts(min_pt=0.8))
    everything = assemble_event("e", tables).particle_labels.clone()
    noise = torch.nonzero(event.particle_ids == 0).flatten()
    everything[noise[:3]] = 99
    figure = event_display(event, everything)
    assert {OTHER_COLOUR, FAKE_COLOUR} <= set(line_colours(figure, 1))
    assert f"{12 - event.num_particles} of other particles" in legend(figure, 1)


def test_hits_are_where_they_belong(event: Event) -> None:
    figure = event_display(event)
    assert len(figure.axes) == 2
    drawn = [np.concatenate([dots.get_offsets() for dots in axes.collections if len(dots.get_offsets()) > 1])
             for axes in figure.axes]  # fmt: skip
    x, y, z = event.positions.double().unbind(1)
    for found, wanted in zip(drawn, ((x, y), (z, torch.hypot(x, y))), strict=True):
        assert sorted(map(tuple, np.round(found, 3).tolist())) == sorted(
            map(tuple, np.round(torch.stack(wanted, 1).numpy(), 3).tolist())
        )
    assert BACKGROUND in {to_hex(colour) for colour in figure.axes[0].collections[0].get_facecolor()}


def test_a_prediction_without_truth(event: Event) -> None:
    figure = event_display(without_truth(event), event.particle_labels)
    loose = int((event.particle_labels == 0).sum())
    assert len(figure.axes) == 2
    assert legend(figure, 0) == [f"{loose} hits in no track", "12 tracks"]


@pytest.mark.parametrize("label", [0, 1])
def test_no_tracks_and_one_track_can_be_drawn(event: Event, label: int) -> None:
    figure = event_display(event, torch.full((len(event),), label))
    figure.draw_without_rendering()
    assert "12 not found" in legend(figure, 0)
    assert ("1 fake" in legend(figure, 1)) == bool(label)


def test_a_sector_shows_the_tracks_within(event: Event) -> None:
    phi = torch.atan2(event.positions[:, 1], event.positions[:, 0]).rad2deg()
    figure = event_display(event, event.particle_labels, sector=(90, 180))
    inside = 0
    for k in range(1, 13):
        hits = torch.nonzero(event.particle_labels == k).flatten()
        hits = hits[event.positions[hits].norm(dim=1).argsort()]
        inside += 90 <= float(phi[hits[len(hits) // 2]]) <= 180
    assert 0 < inside < 12
    assert (
        sum(len(lines.get_segments()) for lines in figure.axes[1].collections if hasattr(lines, "get_segments"))
        == inside
    )
    assert "12 find a particle" in legend(figure, 1)
    assert figure.get_suptitle().endswith(", azimuth 90 to 180 degrees")
    assert figure.axes[0].get_xlim()[1] < 300
    for sector in ((40, 20), (0, 400)):
        with pytest.raises(ValueError, match="sector must be two angles in degrees, the smaller first"):
            event_display(event, sector=sector)


def test_what_cannot_be_shown(event: Event) -> None:
    with pytest.raises(ValueError, match="event 'event000000007' has no truth: give tracks_of_hits to show"):
        event_display(without_truth(event))
    for shown in (event, without_truth(event)):
        with pytest.raises(ValueError, match=rf"tracks_of_hits must be \({len(event)},\)"):
            event_display(shown, torch.zeros(3, dtype=torch.int64))
