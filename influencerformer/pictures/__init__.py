"""Pictures of point clouds with their instances: a page to turn them in, still renders, and labelled PLY files."""

from influencerformer.pictures.cloud_instances import Cloud, Instances
from influencerformer.pictures.cloud_page import cloud_page, write_cloud_page
from influencerformer.pictures.cloud_ply import write_ply
from influencerformer.pictures.cloud_render import render_cloud, render_sheet
from influencerformer.pictures.cloud_view import View

__all__ = [
    "Cloud",
    "Instances",
    "View",
    "cloud_page",
    "render_cloud",
    "render_sheet",
    "write_cloud_page",
    "write_ply",
]
