"""A native mask transformer for point clouds: sparse-convolution U-Net, query decoder, criterion."""
