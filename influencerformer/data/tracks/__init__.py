"""Hits of particle detectors with the particles that made them: TrackML's files, generated events, batches."""
