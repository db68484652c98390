"""Trains a network while its hyperparameters are tuned: `hyperdyn_jax.train`.

python train.py --config=configs/digits.py
"""

from hyperdyn_jax.train import main

if __name__ == "__main__":
    main()
