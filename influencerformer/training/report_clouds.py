"""One validation cloud as every loss sees it."""

from __future__ import annotations

import io
from collections.abc import Mapping

from influencerformer.data.points.sample import PointSample
from influencerformer.pictures.cloud_instances import Cloud, match_instances
from influencerformer.pictures.cloud_render import paint, panels, splat
from influencerformer.training.compare_stats import loss_title
from influencerformer.training.point_module import PointSegmenter
from influencerformer.training.point_predict import PointPredictor, truth_of
from influencerformer.training.report_images import ImageRow

PANEL_SIZE = (400, 300)


def cloud_row(sample: PointSample, models: Mapping[str, PointSegmenter]) -> ImageRow:
    """The panels of one cloud: as it is, its truth, and each loss's predictions."""
    truth = truth_of(sample)
    found = {
        loss_title(loss): PointPredictor(model)(sample, most=sample.num_instances) for loss, model in models.items()
    }
    cloud = Cloud(sample.name, sample.coordinates.numpy(), sample.colors.numpy(), truth, found)
    seen = splat(cloud.coordinates, PANEL_SIZE)
    pictures = []
    for title, colors in panels(cloud):
        buffer = io.BytesIO()
        paint(seen, colors).save(buffer, "PNG", optimize=True)
        pictures.append((title, buffer.getvalue()))
    counts = [f"{title} {int((match_instances(one, truth).found > 0).sum())}" for title, one in found.items()]
    name = f"{sample.name}, instances: {sample.num_instances}, found: {', '.join(counts)}"
    return ImageRow(name, tuple(pictures))
