"""Steps of training, retraining, and what is measured of a network."""
