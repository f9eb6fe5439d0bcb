"""Downloads of public data sets: `python -m influencerformer.data.download --help`."""

from influencerformer.data.download.coco import download_coco
from influencerformer.data.download.extract import unpacked
from influencerformer.data.download.fetch import RemoteFile, fetch_file
from influencerformer.data.download.s3dis import download_s3dis

__all__ = ["RemoteFile", "download_coco", "download_s3dis", "fetch_file", "unpacked"]
