"""InfluencerFormer: matching-free training of query-based instance segmentation."""
