"""How a network is trained: Chainer's Trainer with batches that continue each other, and all it takes to resume."""
