"""One HTML page that holds point clouds and turns them in the browser: nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from influencerformer.pictures.atomic import replace_file
from influencerformer.pictures.cloud_colours import (
    ERROR_COLOURS,
    IGNORED_COLOUR,
    NO_INSTANCE_COLOUR,
    UNMATCHED_COLOUR,
    prediction_palette,
    truth_palette,
)
from influencerformer.pictures.cloud_instances import (
    ERROR_TEXTS,
    MATCH_IOU,
    Cloud,
    Instances,
    PointError,
    match_instances,
    point_errors,
)
from influencerformer.pictures.cloud_view import View, point_spacing, sides

MAX_POINTS = 200_000
MOST_INSTANCES = 65_534
SCRIPTS = ("cloud_draw.js", "cloud_table.js", "cloud_hands.js", "cloud_page.js")


def write_cloud_page(path: Path | str, clouds: Sequence[Cloud], class_names: Sequence[str], **options: Any) -> Path:
    """Write `cloud_page(clouds, class_names, **options)` to a file, whole or not at all.

    Returns:
        `path`.

    Raises:
        ValueError: as `cloud_page`.
        UserError: `path` cannot be written.
    """
    html = cloud_page(clouds, class_names, **options)
    # Names of files need not be text.
    return replace_file(path, lambda draft: draft.write_text(html, encoding="utf-8", errors="replace"))


def cloud_page(
    clouds: Sequence[Cloud],
    class_names: Sequence[str],
    *,
    title: str = "Point cloud",
    text: str = "",
    max_points: int = MAX_POINTS,
) -> str:
    """A self-contained HTML page with the clouds, to be turned with mouse, fingers or keys.

    Buttons show the cloud's own colours, its truth, and each model's predictions and errors; links may name one:
    `page.html#view=error-2&room=3` (`colour`, `truth`, `prediction-M`, `error-M`; models and rooms count from 1).
    It is drawn with WebGL 2, or without it where there is none.

    Args:
        clouds: one or more; without a truth the buttons Truth and Error are left out.
        class_names: names of the classes 0..C-1.
        title: heading of the page.
        text: a remark beside the cloud.
        max_points: points shown of each cloud. A larger one is thinned at random, the same way every time, and the
            page says so; its numbers are still those of all points. About 20 bytes a point and two models.

    Returns:
        the page.

    Raises:
        ValueError: no cloud, `max_points` below 1, a class without a name, or more than 65534 instances in a cloud.
    """
    if not clouds:
        raise ValueError("cloud_page needs at least one cloud")
    if max_points < 1:
        raise ValueError(f"max_points must be 1 or more, got {max_points}")
    data = {
        "classes": list(class_names),
        "iou": MATCH_IOU,
        "colours": {"none": NO_INSTANCE_COLOUR, "ignored": IGNORED_COLOUR, "unmatched": UNMATCHED_COLOUR},
        "errors": [
            {"colour": ERROR_COLOURS[kind], "title": ERROR_TEXTS[kind][0], "text": ERROR_TEXTS[kind][1]}
            for kind in PointError
        ],
        "clouds": [_cloud_data(cloud, len(class_names), max_points) for cloud in clouds],
    }
    folder = files("influencerformer.pictures")
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        folder.joinpath("cloud_page.html").read_text(encoding="utf-8")
    )
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    return template.render(
        title=title, text=text, data=htmlsafe_json_dumps(data, allow_nan=False), script=Markup(script)
    )


def _cloud_data(cloud: Cloud, classes: int, max_points: int) -> dict[str, Any]:
    total = len(cloud.coordinates)
    # In random order also where all are shown, so that no order of the file decides which point hides which.
    kept = np.random.default_rng(0).permutation(total)[:max_points]
    coordinates = cloud.coordinates[kept].astype(np.float64)
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    centre, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-9)
    scale = half / 32767
    view = View.of(coordinates)
    least, most, slab = sides(coordinates)
    truth = cloud.truth
    parts = {"truth": truth, **cloud.predictions}
    for what, part in parts.items():
        if part is not None:
            _check_instances(f"cloud {cloud.name!r}, {what}", part, classes)
    shown = f", {len(kept):,} of them shown, drawn at random; numbers are of all" if len(kept) < total else ""
    return {
        "name": cloud.name,
        "note": f"{cloud.name}: {total:,} points{shown}.",
        "xyz": _base64(np.round((coordinates - centre) / scale), "<i2"),
        "rgb": _base64(cloud.colors[kept], "u1"),
        "scale": scale,
        "radius": max(float(np.linalg.norm(high - low)) / 2, 1e-9),
        "low": float(low[2]),
        "height": float(high[2] - low[2]),
        "centre_z": float(centre[2]),
        "spacing": point_spacing(coordinates) or 0.01 * half,
        "azimuth": view.azimuth,
        "elevation": view.elevation,
        "top": view.top,
        "open_front": view.open_front,
        "sides": [float(edge - centre[axis]) for axis in range(2) for edge in (least[axis] + slab, most[axis] - slab)],
        "truth": None if truth is None else _instances_data(truth, kept, truth_palette(truth)),
        "models": [_model_data(title, found, truth, kept) for title, found in cloud.predictions.items()],
    }


def _instances_data(
    instances: Instances, kept: npt.NDArray[np.int64], palette: npt.NDArray[np.uint8]
) -> dict[str, Any]:
    return {
        "labels": _base64(instances.labels[kept].astype(np.int64) % 65536, "<u2"),
        "classes": instances.classes.tolist(),
        "points": instances.sizes().tolist(),
        "colours": palette[1:-1].tolist(),
        "scores": None if instances.scores is None else _rounded(instances.scores),
        "ignores": bool((instances.labels < 0).any()),
    }


def _model_data(title: str, found: Instances, truth: Instances | None, kept: npt.NDArray[np.int64]) -> dict[str, Any]:
    matches = None if truth is None else match_instances(found, truth)
    data = {"title": title, **_instances_data(found, kept, prediction_palette(found, truth, matches)), "errors": None}
    if truth is not None and matches is not None:
        errors = point_errors(found, truth, matches)
        data["errors"] = _base64(errors[kept], "u1")
        data["counts"] = np.bincount(errors, minlength=len(PointError)).tolist()
        data["found"] = matches.found.tolist()
        data["iou"] = _rounded(matches.iou)
    return data


def _check_instances(what: str, instances: Instances, classes: int) -> None:
    if instances.count > MOST_INSTANCES:
        raise ValueError(f"{what}: a page holds up to {MOST_INSTANCES} instances, got {instances.count}")
    if instances.count and int(instances.classes.max()) >= classes:
        raise ValueError(f"{what}: class {instances.classes.max()} has no name, class_names has {classes}")


def _rounded(values: npt.NDArray[np.floating]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _base64(values: npt.NDArray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode("ascii")
