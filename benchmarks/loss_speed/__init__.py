"""What benchmarks/loss_speed.py is made of."""
