"""The parts scripts/train.py is made of."""
