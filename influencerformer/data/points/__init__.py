"""Point clouds with instances: readers into one sample type, generated rooms, augmentation, batches."""
